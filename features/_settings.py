"""What may be chosen, for those who list it without importing torch."""

from __future__ import annotations

__all__ = ["AMPS", "ENGINES", "POOLS"]

AMPS = ("off", "bf16", "fp16")
ENGINES = ("torch", "channels-last", "onnx")
POOLS = ("auto", "avg", "cls", "none")
