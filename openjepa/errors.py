"""What can go wrong, said in one line with the nearest valid value.

Every error a user can cause derives from :class:`OpenJepaError`. The command line prints its message as one line and
exits with ``exit_code``; ``-v`` shows the trace. Broken invariants of our own are ``assert``, never these.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class OpenJepaError(Exception):
    """Base of all errors a user can cause. ``str(error)`` is one line: what is wrong, where, the nearest valid choice."""

    exit_code = 2


class ConfigError(OpenJepaError, ValueError):
    """A recipe, override or argument is wrong."""


class DataError(OpenJepaError, ValueError):
    """Data is missing, empty, or too much of it cannot be read."""


class CheckpointError(OpenJepaError, RuntimeError):
    """A checkpoint or model file is missing, damaged, or does not match the model."""


class RunError(OpenJepaError, RuntimeError):
    """A run directory cannot be used as asked (exists already, is in use, holds nothing to resume, disk full)."""


class TrainingError(OpenJepaError, RuntimeError):
    """Training was stopped: not finite, diverged, collapsed, or a rank was lost."""

    exit_code = 3


class MissingExtra(OpenJepaError, ImportError):  # noqa: N818
    """An optional dependency is not installed; the message names the install command."""


def nearest(value: object, choices: Iterable[object]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest choice, or ``""`` when nothing is close.

    Compares case-insensitively, so that ``Smooth-L1`` finds ``smooth_l1``.
    """
    table = {str(c).lower().replace("-", "_"): str(c) for c in choices}
    found = difflib.get_close_matches(str(value).lower().replace("-", "_"), list(table), n=1, cutoff=0.5)
    return f" (did you mean '{table[found[0]]}'?)" if found else ""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency or raise :class:`MissingExtra` naming ``pip install 'openjepa[extra]'``."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise MissingExtra(f"this needs '{package}': pip install 'openjepa[{extra}]' ({error})") from error
