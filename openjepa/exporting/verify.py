"""The check every export passes before it exists: what was written computes what its source computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from openjepa.errors import CheckpointError

TOLERANCE = 1e-4  # largest difference over the largest value of the source


@dataclass(frozen=True)
class Check:
    """shape: of the input that was drawn. error: largest difference over the largest absolute value of the source."""

    shape: tuple[int, ...]
    error: float


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest absolute value of ``wanted``; infinite where shapes differ or values are not finite."""
    if found.shape != wanted.shape or not bool(torch.isfinite(found).all()):
        return math.inf
    scale = float(wanted.abs().max())
    gap = float((found.double() - wanted.double()).abs().max())
    return gap / scale if scale else (0.0 if gap == 0 else math.inf)


def check_export(
    written: Callable[[Tensor], Tensor],
    source: Callable[[Tensor], Tensor],
    inputs: Iterable[Tensor],
    what: str,
) -> tuple[Check, ...]:
    """Run both on every input.

    what: for messages, such as ``"ONNX Runtime"``.

    Raises:
        CheckpointError: the source is not finite, what was written does not run, or they differ by more than
            :data:`TOLERANCE`.
    """
    checks = []
    for x in inputs:
        with torch.no_grad():
            wanted = source(x)
        if not bool(torch.isfinite(wanted).all()):
            raise CheckpointError("the encoder itself gives values that are not finite: there is nothing to export")
        try:
            found = written(x)
        except Exception as error:  # whatever another library raises on a file it cannot run
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{what} cannot run what was written on {_shown(x)} ({line[:160]})") from error
        error_found = relative_error(found, wanted)
        if error_found > TOLERANCE:
            gap = f"{error_found:.1e}" if math.isfinite(error_found) else _mismatch(found, wanted)
            raise CheckpointError(f"{what} computes something else on {_shown(x)}: {gap}, more than {TOLERANCE:g}")
        checks.append(Check(tuple(x.shape), error_found))
    return tuple(checks)


def _mismatch(found: Tensor, wanted: Tensor) -> str:
    """Why an error is infinite."""
    if found.shape != wanted.shape:
        return f"shape {tuple(found.shape)} instead of {tuple(wanted.shape)}"
    return (
        "values that are not finite" if not bool(torch.isfinite(found).all()) else "values where the source has zeros"
    )


def _shown(x: Tensor) -> str:
    return f"an input of {'×'.join(map(str, x.shape))}"
