"""The precision losses are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(z: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is (float64 stays float64)."""
    return z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
