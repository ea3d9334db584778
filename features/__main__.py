"""``python -m rezsl_features`` is the command ``rezsl-features``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
