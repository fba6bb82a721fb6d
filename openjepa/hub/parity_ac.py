"""Parity of V-JEPA 2-AC: features of single frames, teacher-forced predictions, a rollout, and both losses.

The model is imported as a user imports it (:mod:`openjepa.hub.imports`), so that the layout is checked too, and asked through
:mod:`openjepa.methods.world_model` (official.md §2.4–§2.5).
"""

from __future__ import annotations

import torch

from openjepa.config.schema import ObjectiveConfig
from openjepa.errors import CheckpointError
from openjepa.hub.golden import Golden, Ledger, register_check
from openjepa.hub.imports import import_weights
from openjepa.hub.model_directory import LoadedModel
from openjepa.methods.world_model import encode_frames, rollout, teacher_forced
from openjepa.models import ActionCausalPredictor
from openjepa.objectives.distances import distance
from openjepa.types import Tokens

_L1 = ObjectiveConfig(kind="l1")


@register_check("V-JEPA 2-AC")
@torch.no_grad()
def check_vjepa2_ac(golden: Golden, ledger: Ledger) -> None:
    """Import the checkpoint, predict, and enter every result in ``ledger``.

    Raises:
        CheckpointError: the directory does not describe a V-JEPA 2-AC, or not the one in its checkpoint.
        ConfigError: inputs that do not fit each other.
    """
    loaded = import_weights(golden.path)
    predictor = loaded.predictor
    if not isinstance(predictor, ActionCausalPredictor):
        raise CheckpointError(f"'{golden.path}': its checkpoint has no action-conditioned predictor")
    _agree(golden, loaded)
    clip, actions, states = (golden.tensor(name) for name in ("clip", "actions", "states"))
    ledger.input("clip", "actions", "states")
    camera = golden.tensors.get("extrinsics")  # published files have them whether or not they are used
    if camera is not None:
        ledger.input("extrinsics")
    given = actions, states, camera if predictor.uses_extrinsics else None
    frames = encode_frames(loaded.encoder, clip)
    ledger.compare("features", frames.values)
    forced = teacher_forced(predictor, frames, *given)
    ledger.compare("teacher_forced", forced.values)
    steps, (_, height, width) = golden.integer("rollout_steps"), frames.grid
    first = Tokens(frames.values[:, : height * width], (1, height, width))
    rolled = rollout(predictor, first, *given, steps=steps)
    ledger.compare("rollout", rolled.values)
    for name, made in (("loss_teacher_forced", forced), ("loss_rollout", rolled)):
        truth = frames.values[:, height * width :][:, : made.values.shape[1]]
        loss = distance(_L1, made.values, truth).mean()
        ledger.compare_with(f"meta.{name}", [float(loss)], [golden.number(name)])


def _agree(golden: Golden, loaded: LoadedModel) -> None:
    """What meta.json says of the networks is what the checkpoint holds."""
    model, predictor = loaded.config.model, loaded.config.predictor
    found = {
        "dim": model.dim,
        "depth": model.depth,
        "heads": model.heads,
        "mlp_ratio": model.mlp_ratio,
        "patch_size": model.patch_size,
        **{f"predictor_{name}": getattr(predictor, name, None) for name in ("dim", "depth", "heads")},
    }
    for name, value in found.items():
        if golden.number(name) != value:
            raise CheckpointError(
                f"'{golden.path}' is malformed: meta.json says {name} = {golden.number(name):g}, its checkpoint {value}"
            )
    if golden.tensor("clip").shape[2] != golden.integer("frames"):
        raise CheckpointError(
            f"'{golden.path}' is malformed: clip has not the {golden.integer('frames')} frames of meta.json"
        )
