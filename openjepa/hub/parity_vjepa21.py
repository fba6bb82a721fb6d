"""Parity of V-JEPA 2.1: taps, predictions of hidden and of visible tokens, both losses and gradients, for clips and images.

The checkpoint is imported as a user imports it (:mod:`openjepa.hub.imports`) and put into the method a run uses; the context
loss is that of :mod:`openjepa.objectives.context` (family.md §1.1–§1.3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from openjepa.config.schema import ObjectiveConfig
from openjepa.errors import CheckpointError
from openjepa.hub.golden import Golden, Ledger, register_check
from openjepa.hub.imports import import_weights
from openjepa.hub.model_directory import LoadedModel
from openjepa.hub.official_v21 import VJEPA21_OFFICIAL
from openjepa.hub.parity_parts import published, read_ids
from openjepa.hub.strict import load_strict
from openjepa.methods import MaskedLatent
from openjepa.models import NarrowPredictor
from openjepa.models.transformer import gather_tokens
from openjepa.objectives import context_sum, context_weights
from openjepa.types import Ids, Tokens

_L1 = ObjectiveConfig(kind="l1")
_KINDS = ("video", "image")


@register_check("V-JEPA 2.1")
def check_vjepa21(golden: Golden, ledger: Ledger) -> None:
    """Import the checkpoint, run it on clips and on images, and enter every result in ``ledger``.

    Raises:
        CheckpointError: the directory does not describe a V-JEPA 2.1, or not the one in its checkpoint.
    """
    loaded = import_weights(golden.path)
    if not isinstance(loaded.predictor, NarrowPredictor) or loaded.online is None or loaded.target is None:
        raise CheckpointError(f"'{golden.path}': its checkpoint is not encoder, predictor and target_encoder")
    _agree(golden, loaded)
    method = _method(loaded)
    for name in sorted(golden.tensors):
        kind, _, part = name.partition(".")
        if part == "input":
            ledger.input(name)
            with torch.no_grad():
                ledger.compare(f"{kind}.encoder", method.online.forward_features(golden.tensor(name)))
    for kind in _KINDS:
        if f"{kind}.input" in golden.tensors:
            _check_kind(golden, ledger, method, kind)


def _agree(golden: Golden, loaded: LoadedModel) -> None:
    """What meta.json says of the networks is what the checkpoint holds, or what hints made of it."""
    model, predictor = loaded.config.model, loaded.config.predictor
    found = {
        **{name: getattr(model, name) for name in ("dim", "depth", "heads", "mlp_ratio", "patch_size", "tubelet_size")},
        **{f"predictor_{name}": getattr(predictor, name, None) for name in ("dim", "depth", "heads")},
        "mask_tokens": getattr(predictor, "mask_tokens", None),
        "layer_norm_eps": model.norm_eps,
        "frames": loaded.config.frames,
    }
    for name, value in found.items():
        if golden.number(name) != value:
            raise CheckpointError(
                f"'{golden.path}' is malformed: meta.json says {name} = {golden.number(name):g}, its checkpoint {value}"
            )
    if golden.need("taps") != list(loaded.encoder.tap_blocks):
        raise CheckpointError(
            f"'{golden.path}': meta.json taps the blocks {golden.need('taps')}, we tap {list(loaded.encoder.tap_blocks)}"
        )


def _method(loaded: LoadedModel) -> MaskedLatent:
    """The method a run trains, with the imported weights."""
    method = MaskedLatent(loaded.config)
    networks = {"online": loaded.online, "target": loaded.target, "predictor": loaded.predictor}
    state = {
        f"{part}.{key}": value
        for part, network in networks.items()
        if network is not None
        for key, value in network.state_dict().items()
    }
    load_strict(method, state)
    method.train()
    return method


def _check_kind(golden: Golden, ledger: Ledger, method: MaskedLatent, kind: str) -> None:
    """Targets, every mask pair, both losses and the gradients of clips or of images."""
    inputs = golden.tensor(f"{kind}.input")
    grid = method.online.grid_of(inputs)
    raw, target = method.targets(inputs)
    ledger.compare(f"{kind}.target_taps", raw)
    ledger.compare(f"{kind}.target_taps_normed", target)
    pairs = sum(name.startswith(f"{kind}.target_mask.") for name in golden.tensors)
    if not pairs:
        raise CheckpointError(f"'{golden.path}' is malformed: io.safetensors has no {kind}.target_mask.0")
    losses = [_check_pair(golden, ledger, method, kind, number, grid, target) for number in range(pairs)]
    hidden, seen = (torch.stack(found).mean() for found in zip(*losses, strict=True))  # pairs weigh alike
    for name, value in (("loss_prediction", hidden), ("loss_context", seen)):
        ledger.compare_with(f"meta.{kind}.{name}", [float(value.detach())], [golden.number(f"{kind}.{name}")])
    method.zero_grad()
    (hidden + golden.number(f"{kind}.context_weight") * seen).backward()
    gradients = {name: value.grad for name, value in method.named_parameters() if value.grad is not None}
    ours = published(VJEPA21_OFFICIAL, gradients)
    for name in golden.tensors:
        if name.startswith(f"{kind}.grad."):
            ledger.compare(name, ours.get(name.removeprefix(f"{kind}.grad.")))


def _check_pair(
    golden: Golden, ledger: Ledger, method: MaskedLatent, kind: str, number: int, grid: tuple[int, ...], target: Tensor
) -> tuple[Tensor, Tensor]:
    """Context features, both predictions and the distances of one mask pair. Returns its two losses."""
    inputs, tokens = golden.tensor(f"{kind}.input"), target.shape[1]
    names = [f"{kind}.{part}_mask.{number}" for part in ("context", "target")]
    seen, hidden = (read_ids(golden, name, len(inputs), tokens) for name in names)
    ledger.input(*names)
    values = method.online.forward_levels(inputs, keep=seen)
    token = golden.integer(f"{kind}.mask_token_index", least=0)
    assert isinstance(method.predictor, NarrowPredictor)
    context = Tokens(values, grid, seen)
    prediction, again = method.predictor.predict_all(context, hidden, (token,), image=kind == "image")
    weights = context_weights(seen, hidden, grid)
    ledger.compare(f"{kind}.context.{number}", values)
    ledger.compare(f"{kind}.prediction.{number}", prediction)
    ledger.compare(f"{kind}.context_prediction.{number}", again)
    ledger.compare(f"{kind}.sqrt_distance.{number}", 1 / weights)
    return _mean(prediction, target, hidden, None), _mean(again, target, seen, weights)


def _mean(prediction: Tensor, target: Tensor, ids: Ids, weights: Tensor | None) -> Tensor:
    """Weighted L1 of predictions against the targets at ``ids``, over elements."""
    return context_sum(_L1, prediction, gather_tokens(target, ids.index), weights) / prediction.numel()
