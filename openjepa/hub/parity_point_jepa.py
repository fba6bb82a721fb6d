"""Parity of Point-JEPA: sequencers, tokens, features, predictions, targets, loss and gradients of the published program.

The model is imported as a user imports it (:mod:`openjepa.hub.imports`). Groups and centres are given; ids count the groups
in the order of the sequencer, and are shared by the batch (family.md §2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from openjepa.config.schema import ObjectiveConfig
from openjepa.errors import CheckpointError
from openjepa.hub.golden import Golden, Ledger, register_check
from openjepa.hub.imports import import_weights
from openjepa.hub.model_directory import LoadedModel
from openjepa.hub.official_points import POINT_JEPA_OFFICIAL
from openjepa.masking.sequencer import Start, nearest_order
from openjepa.models import PointPredictor, PointTransformer, pack_groups
from openjepa.models.transformer import gather_tokens
from openjepa.objectives.distances import distance
from openjepa.objectives.targets import transform_target
from openjepa.types import Ids, Tokens

_ORDERS: dict[str, Start] = {"nearest": "first", "nearest_from_minimum": "minimum"}
_SAID = "smooth L1, beta "


@dataclass(frozen=True)
class _Networks:
    """The three parts of the model."""

    online: PointTransformer
    target: PointTransformer
    predictor: PointPredictor


@register_check("Point-JEPA")
def check_point_jepa(golden: Golden, ledger: Ledger) -> None:
    """Import the checkpoint, run it, and enter every result in ``ledger``.

    Raises:
        CheckpointError: the directory does not describe a Point-JEPA, or not the one in its checkpoint.
    """
    loaded = import_weights(golden.path)
    networks = _networks(golden, loaded)
    groups, centres = golden.tensor("groups"), golden.tensor("centres")
    ledger.input("groups", "centres", "context_ids", "target_ids")
    x = pack_groups(groups, centres)  # (B, G, 1 + K, 3)
    for name, start in _ORDERS.items():
        ledger.compare(f"order.{name}", nearest_order(centres, start))
    order = nearest_order(centres, _start(golden))
    walked = x.gather(1, order[:, :, None, None].expand_as(x))
    with torch.no_grad():
        ledger.compare("tokens", networks.online.tokenizer(groups))
        ledger.compare("encoder_full", networks.online.forward_features(walked))
    _check_prediction(golden, ledger, networks, walked)


def _check_prediction(golden: Golden, ledger: Ledger, networks: _Networks, x: Tensor) -> None:
    """Context, targets and predictions of all blocks; their distance and its gradients."""
    batch, count = x.shape[:2]
    shared, asked = _ids(golden, "context_ids", 1, count), _ids(golden, "target_ids", 2, count)
    context_ids = Ids(shared.expand(batch, -1))
    query = Ids(asked[:, None].expand(-1, batch, -1).flatten(0, 1))  # (M·B, K_t), block by block
    context = networks.online.forward_features(x, context_ids)
    prediction = networks.predictor.predict(Tokens(context, (count,), context_ids), query, x[:, :, 0])
    with torch.no_grad():
        (hidden,) = networks.target.forward_intermediates(x, 1, norm="none")
        every = transform_target(hidden, "layer_norm").repeat(len(asked), 1, 1)
        target = gather_tokens(every, query.index)
    ledger.compare("context", context)
    ledger.compare("target_hidden", hidden)
    for name, values in (("target", target), ("prediction", prediction)):
        ledger.compare(name, values.unflatten(0, (len(asked), batch)))
    loss = distance(_objective(golden), prediction, target).mean()
    ledger.compare_with("meta.loss_value", [float(loss.detach())], [golden.number("loss_value")])
    loss.backward()
    _check_gradients(ledger, networks)


def _check_gradients(ledger: Ledger, networks: _Networks) -> None:
    """Every ``grad.*`` of the file: ``encoder.``, ``tokenizer.``, ``positional_encoding.`` and ``predictor.`` names."""
    parts = {"online": networks.online, "predictor": networks.predictor}
    ours = {
        f"{part}.{name}": parameter.grad
        for part, network in parts.items()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    named = {}
    for name, gradient in POINT_JEPA_OFFICIAL.inverse().apply(ours).tensors.items():
        short = name.removeprefix("state_dict.").replace("tokenizer.pointnet.encoder.", "tokenizer.")
        named["encoder." + short.removeprefix("student.") if short.startswith("student.") else short] = gradient
    for name in ledger.golden.tensors:
        if name.startswith("grad."):
            ledger.compare(name, named.get(name.removeprefix("grad.")))


def _networks(golden: Golden, loaded: LoadedModel) -> _Networks:
    """The three parts, and that they are those meta.json speaks of."""
    online, target, predictor = loaded.online, loaded.target, loaded.predictor
    if not isinstance(online, PointTransformer) or not isinstance(target, PointTransformer):
        raise CheckpointError(f"'{golden.path}': its checkpoint has not both a student and a teacher of points")
    if not isinstance(predictor, PointPredictor):
        raise CheckpointError(f"'{golden.path}': its checkpoint has no predictor of points")
    model, narrow = loaded.config.model, loaded.config.predictor
    found = {
        "layer_norm_eps": model.norm_eps,
        **{name: getattr(model, name) for name in ("dim", "depth", "heads")},
        **{f"predictor_{name}": getattr(narrow, name, None) for name in ("dim", "depth", "heads")},
    }
    found |= dict(zip(("groups", "group_size"), golden.tensor("groups").shape[1:3], strict=True))
    for name, value in found.items():
        if golden.number(name) != value:
            raise CheckpointError(
                f"'{golden.path}' is malformed: meta.json says {name} = {golden.number(name):g}, its tensors {value:g}"
            )
    return _Networks(online, target, predictor)


def _start(golden: Golden) -> Start:
    """Where the sequencer begins, from its sentence in meta.json."""
    name = str(golden.need("order")).split(",")[0]
    if name not in _ORDERS:
        raise CheckpointError(f"'{golden.path}': unknown order '{name}': there are {', '.join(_ORDERS)}")
    assert _ORDERS[name] in get_args(Start)
    return _ORDERS[name]


def _objective(golden: Golden) -> ObjectiveConfig:
    """The loss, from its sentence in meta.json."""
    text = str(golden.need("loss"))
    beta = text.removeprefix(_SAID).split(",")[0]
    if not text.startswith(_SAID) or not beta.replace(".", "", 1).isdigit():
        raise CheckpointError(f"'{golden.path}': unknown loss '{text[:40]}': it starts with '{_SAID}'")
    return ObjectiveConfig(kind="smooth_l1", beta=float(beta))


def _ids(golden: Golden, name: str, axes: int, count: int) -> Tensor:
    """Ids shared by the batch; they must be groups."""
    index = golden.tensor(name)
    good = index.dtype == torch.int64 and index.ndim == axes and index.numel() > 0
    if not good or int(index.min()) < 0 or int(index.max()) >= count:
        raise CheckpointError(
            f"'{golden.path}' is malformed: {name} {tuple(index.shape)} {index.dtype} is no list of ids below {count}"
        )
    return index
