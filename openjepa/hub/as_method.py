"""A model read from disk as the method it was trained with: for its loss, and to train on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openjepa.errors import CheckpointError
from openjepa.hub.model_directory import LoadedModel
from openjepa.hub.strict import load_strict
from openjepa.methods import Method, build_method


def as_method(loaded: LoadedModel) -> Method:
    """The method of the model's recipe with its weights (copied), in evaluation mode.

    A lone encoder is online and target alike. torch's random generator is left as it was.

    Raises:
        CheckpointError: the method has a predictor and the model none.
    """
    with torch.random.fork_rng(devices=[]):
        method = build_method(loaded.config)
    state: dict[str, Tensor] = {}
    for part in ("online", "target", "predictor"):
        theirs, ours = getattr(loaded, part), getattr(method, part, None)
        if not isinstance(ours, nn.Module):
            continue
        if theirs is None and part == "predictor":
            raise CheckpointError(f"'{loaded.source}' has no predictor, and {type(method).__name__} needs one")
        source = loaded.encoder if theirs is None else theirs
        state |= {f"{part}.{key}": value for key, value in source.state_dict().items()}
        _copy_epsilon(source, ours)
    load_strict(method, state)
    return method.eval()


def _copy_epsilon(source: nn.Module, target: nn.Module) -> None:
    """Norms that have an epsilon of their own keep it."""
    for name, module in source.named_modules():
        if isinstance(module, nn.LayerNorm):
            norm = target.get_submodule(name)
            assert isinstance(norm, nn.LayerNorm), name
            norm.eps = module.eps
