"""Which tokens are shown and which are predicted: pure index mathematics, no I/O and no model."""

from openjepa.masking.build import Masker, build_masker

__all__ = ["Masker", "build_masker"]
