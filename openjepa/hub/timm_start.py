"""A plain vision transformer of timm as weights to start from: its tensors under our names, with nothing lost."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from openjepa.errors import CheckpointError
from openjepa.hub.adapters_base import Foreign
from openjepa.hub.fit import CLASS, TABLE, EncoderWeights
from openjepa.models.positions import Positions

_SCALE = re.compile(r"(blocks\.\d+)\.(ls1|ls2)\.gamma")
_SCALED = {"ls1": "attn.proj", "ls2": "mlp.fc2"}


def encoder_weights(foreign: Foreign) -> EncoderWeights:
    """The encoder's tensors by our names.

    The class token takes its own position in, a scale at the end of a branch is multiplied into the branch's last layer, and
    a norm behind the pooling is the final norm: the network computes what it computed.

    Raises:
        CheckpointError: not a plain vision transformer of timm.
    """
    network = getattr(foreign.encoder, "network", None)
    blocks = list(getattr(network, "blocks", None) or ())
    heads = getattr(getattr(blocks[0], "attn", None), "num_heads", None) if blocks else None
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if not foreign.name.startswith("timm:") or heads is None or grid is None or network is None:
        raise CheckpointError(f"'{foreign.name}' is no plain vision transformer whose weights a run can start from")
    tensors = _renamed(network.state_dict(), int(getattr(network, "num_prefix_tokens", 0)), tuple(grid))
    eps = float(getattr(getattr(blocks[0], "norm1", None), "eps", 1e-6))
    table = tensors[TABLE][0] if TABLE in tensors else None
    return EncoderWeights(tensors, int(heads), tuple(grid), Positions("learned"), table, eps)


def _renamed(state: Mapping[str, Tensor], prefix: int, grid: tuple[int, ...]) -> dict[str, Tensor]:
    """The network's tensors as ours."""
    found = {key: tensor.detach() for key, tensor in state.items()}
    for key in [key for key in found if _SCALE.fullmatch(key)]:
        match = _SCALE.fullmatch(key)
        assert match is not None
        gamma, layer = found.pop(key), f"{match[1]}.{_SCALED[match[2]]}"
        found[f"{layer}.weight"] = found[f"{layer}.weight"] * gamma[:, None]
        found[f"{layer}.bias"] = found[f"{layer}.bias"] * gamma
    for name in ("weight", "bias"):
        if f"fc_norm.{name}" in found and f"norm.{name}" not in found:
            found[f"norm.{name}"] = found.pop(f"fc_norm.{name}")
    table = found.get(TABLE)
    if table is not None and prefix == 1 and table.shape[1] == 1 + grid[0] * grid[1]:
        found[CLASS] = found[CLASS] + table[:, :1]
        found[TABLE] = table[:, 1:]
    return found
