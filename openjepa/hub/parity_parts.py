"""What parity checks of several systems share: reading masks, building the recipe meta.json describes, published names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from pydantic import ValidationError
from torch import Tensor

from openjepa.config.schema import Recipe
from openjepa.errors import CheckpointError
from openjepa.hub.golden import Golden, Ledger
from openjepa.hub.keymaps import Dropped, KeyMap
from openjepa.methods import MaskedLatent
from openjepa.types import Ids

_WRAPPERS = re.compile(r"^(\w+)\.(?:module\.)?(?:backbone\.)?")


def describe(golden: Golden, build: Callable[[], Recipe]) -> Recipe:
    """The recipe ``build`` makes of meta.json; what the schema refuses is one line about the directory."""
    if golden.number("layer_norm_eps") != 1e-6:
        eps = golden.number("layer_norm_eps")
        raise CheckpointError(f"'{golden.path}': layer_norm_eps {eps} is not {golden.need('family')}'s, which is 1e-06")
    try:
        return build()
    except (ValidationError, TypeError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(f"'{golden.path}' is malformed: meta.json describes no model ({what})") from error


def read_size(golden: Golden) -> int | tuple[int, int]:
    """``image_size`` of meta.json: one number, or height and width."""
    size = golden.need("image_size")
    return size if isinstance(size, int) else tuple(size)


def read_ids(golden: Golden, name: str, batch: int, tokens: int) -> Ids:
    """One mask ``(B, K)``; its ids must be tokens of the grid."""
    index = golden.tensor(name)
    good = index.dtype == torch.int64 and index.ndim == 2 and len(index) == batch and index.numel() > 0
    if not good or int(index.min()) < 0 or int(index.max()) >= tokens:
        raise CheckpointError(
            f"'{golden.path}' is malformed: {name} {tuple(index.shape)} {index.dtype} is not (B, K) ids below {tokens}"
        )
    return Ids(index)


def compare_positions(method: MaskedLatent, dropped: Mapping[str, Dropped], ledger: Ledger) -> None:
    """The position tables of the checkpoint against those we compute."""
    buffers = dict(method.named_buffers())
    for name, drop in dropped.items():
        ledger.compare_with(f"checkpoint.{name}", buffers.get(name), drop.tensor)


def compare_gradients(method: MaskedLatent, keymap: KeyMap, ledger: Ledger) -> None:
    """Every ``grad.*`` of the file, by the published names."""
    gradients = {name: parameter.grad for name, parameter in method.named_parameters() if parameter.grad is not None}
    ours = published(keymap, gradients)
    for name in ledger.golden.tensors:
        if name.startswith("grad."):
            ledger.compare(name, ours.get(name.removeprefix("grad.")))


def published(
    keymap: KeyMap, tensors: Mapping[str, Tensor], extras: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Our tensors under the published names, without the wrappers' prefixes, which golden names lack."""
    return {
        _WRAPPERS.sub(r"\1.", name): tensor for name, tensor in keymap.inverse().apply(tensors, extras).tensors.items()
    }
