"""How files are written safely."""
