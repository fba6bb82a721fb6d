"""openjepa: one library and command line for the JEPA family of self-supervised models.

The public names load on first use, so that ``import openjepa`` and ``openjepa --help`` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_API: tuple[str, ...] = (
    "cka",
    "contamination",
    "evaluate",
    "export",
    "inspect",
    "load",
    "pretrain",
    "push",
    "recipes",
    "run",
    "runs",
    "verify",
)
_API += ("embed", "iterate", "open_store")
_API += ("classify", "finetune")
_API += ("find_duplicates", "open_index", "search")

if TYPE_CHECKING:
    from openjepa.api import (
        cka,
        classify,
        contamination,
        embed,
        evaluate,
        export,
        find_duplicates,
        finetune,
        inspect,
        iterate,
        load,
        open_index,
        open_store,
        pretrain,
        push,
        recipes,
        run,
        runs,
        search,
        verify,
    )
    from openjepa.experiments.ablate import ablate

__all__ = [
    "__version__",
    "ablate",
    "cka",
    "classify",
    "contamination",
    "embed",
    "evaluate",
    "export",
    "find_duplicates",
    "finetune",
    "inspect",
    "iterate",
    "load",
    "open_index",
    "open_store",
    "pretrain",
    "push",
    "recipes",
    "run",
    "runs",
    "search",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _API:
        from openjepa import api

        return getattr(api, name)
    if name == "ablate":
        from openjepa.experiments.ablate import ablate

        return ablate
    raise AttributeError(f"module 'openjepa' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
