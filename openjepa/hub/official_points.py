"""Key map of the published Point-JEPA files, which are checkpoints of a training framework (family.md §2; golden layout)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from openjepa.errors import CheckpointError
from openjepa.hub.keymaps import Drop, KeyMap, Rename, Rule, Work, register_map

_RUN_STATE = "state of the published run"
_STUDENT, _TEACHER = "state_dict.student.", "state_dict.teacher.ema_model."


@dataclass(frozen=True)
class Share:
    """One tensor that several networks of ours have: ``source`` + rest becomes every one of ``targets`` + rest.

    owners: prefix in the file of the network each target belongs to; without it there is no such network.
    """

    source: str
    targets: tuple[str, ...]
    owners: tuple[str, ...]

    def apply(self, work: Work) -> None:
        """Hand every match to all networks that are there."""
        there = [any(key.startswith(owner) for key in work.pending) for owner in self.owners]
        for key, fields, tensor in work.take(f"{self.source}{{key:rest}}"):
            for number, target in enumerate(name for name, present in zip(self.targets, there, strict=True) if present):
                # copies: networks that look alike today must not be one tomorrow, when one of them is trained
                work.put(target + fields["key"], tensor.clone() if number else tensor, key)

    def inverse(self) -> Unshare:
        """One tensor again."""
        return Unshare(self)


@dataclass(frozen=True)
class Unshare:
    """Inverse of :class:`Share`: equal tensors of several networks become one."""

    undoes: Share

    def apply(self, work: Work) -> None:
        """Write the first, once all are known to be it. Raises CheckpointError when they differ."""
        for target in self.undoes.targets:
            for key, fields, tensor in work.take(f"{target}{{key:rest}}"):
                name = self.undoes.source + fields["key"]
                first = work.done.get(name)
                if first is None:
                    work.put(name, tensor, key)
                elif not tensor.is_meta and not torch.equal(first, tensor):
                    raise CheckpointError(
                        f"'{key}' is another in each encoder, and the published file has one for both"
                    )

    def inverse(self) -> Share:
        """Hand it to all again."""
        return self.undoes


_RUN: tuple[Rule, ...] = tuple(
    Drop(f"{part}.{{key:rest}}", _RUN_STATE) for part in ("optimizer_states", "lr_schedulers", "callbacks", "loops")
)
_THEIRS = "state_dict.predictor."

POINT_JEPA_OFFICIAL = register_map(
    KeyMap(
        "point-jepa-official",
        "published Point-JEPA files: student, teacher.ema_model, predictor, and the tokenizer and positions both encoders share",
        (
            *_RUN,
            Share(
                "state_dict.tokenizer.pointnet.encoder.",
                ("online.tokenizer.", "target.tokenizer."),
                (_STUDENT, _TEACHER),
            ),
            Share("state_dict.positional_encoding.", ("online.place.", "target.place."), (_STUDENT, _TEACHER)),
            Rename(f"{_STUDENT}{{key:rest}}", "online.{key}"),
            Rename(f"{_TEACHER}{{key:rest}}", "target.{key}"),
            Rename(f"{_THEIRS}predictor.blocks.{{key:rest}}", "predictor.predictor_blocks.{key}"),
            Rename(f"{_THEIRS}predictor_norm.{{p}}", "predictor.spare_norm.{p}"),
            Rename(f"{_THEIRS}predictor.norm.{{p}}", "predictor.predictor_norm.{p}"),
            Rename(f"{_THEIRS}positional_encoding.{{key:rest}}", "predictor.place.{key}"),
            Rename(f"{_THEIRS}{{key:rest}}", "predictor.{key}"),
        ),
    )
)
