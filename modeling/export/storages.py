"""What an export may hold its matrices in. Plain Python, for what checks it without a framework."""

from typing import Final

FLOAT32: Final = "float32"
INT8: Final = "int8"
BFLOAT16_COMPUTE: Final = "bfloat16_compute"
NARROW_STORAGES: Final = ("float16", "bfloat16", BFLOAT16_COMPUTE, INT8)
"""A model computes in float32 with the first two, and with the others in what they are held in."""
STORAGES: Final = (FLOAT32, *NARROW_STORAGES)
