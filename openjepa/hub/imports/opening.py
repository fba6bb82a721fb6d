"""Published weights become a model: read, recognise, infer, build, load strictly, say what a user must know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from torch import Tensor

from openjepa.config.schema import Recipe
from openjepa.errors import CheckpointError, ConfigError, nearest
from openjepa.hub.imports.contents import Contents, read_contents
from openjepa.hub.imports.layout import Layout, recognise
from openjepa.hub.keymaps import Mapped
from openjepa.hub.model_directory import LoadedModel, Which, assemble, split_parts
from openjepa.hub.provenance import Provenance, PublishedProbe

_PARTS = ("online", "target", "predictor")
_ONLINE, _TARGET = ("encoder", "state_dict.student"), ("target_encoder", "ema_encoder", "state_dict.teacher.ema_model")


@dataclass(frozen=True)
class KeyRow:
    """One tensor: the file's name, ours (None where it is left out), its shape, and why it is left out."""

    theirs: str
    ours: str | None
    shape: tuple[int, ...]
    note: str = ""


@dataclass(frozen=True)
class Inspected:
    """What a weight file holds, found without building the model.

    layout, about: whose names it has. sections: top-level parts. architecture: what was inferred, in the words of a
    recipe. keys: every tensor.
    """

    path: Path
    layout: str
    about: str
    sections: tuple[str, ...]
    architecture: Mapping[str, Any]
    keys: tuple[KeyRow, ...]


def import_weights(
    path: str | Path,
    *,
    which: Which = "deployed",
    hints: Mapping[str, Any] | None = None,
    licence: str | None = None,
    name: str | None = None,
    probe: PublishedProbe | None = None,
) -> LoadedModel:
    """Open published weights: a file in an authors' layout, or a Hugging Face directory of a system we have.

    Args:
        path: ``.pt``, ``.pth``, ``.pth.tar``, ``.safetensors``, or a directory. which: ``deployed`` takes the slow average
            (``target_encoder``, ``ema_encoder``), which the authors evaluate; ``online`` the encoder that was optimised.
        hints: what tensors do not tell, see :data:`openjepa.hub.imports.HINTS`. licence, name: where a catalogue knows.

    Raises:
        CheckpointError: unreadable, a pickle with code (nothing is executed), an unknown layout, or tensors that do not
            match the architecture they suggest: nothing is loaded.
        ConfigError: something ambiguous, which the message asks for, or no such encoder.
    """
    if which not in get_args(Which):
        raise ConfigError(f"no encoder '{which}'{nearest(which, get_args(Which))}: choose deployed, target or online")
    return import_contents(read_contents(path, hints), which=which, licence=licence, name=name, probe=probe)


def import_contents(
    contents: Contents,
    *,
    which: Which = "deployed",
    licence: str | None = None,
    name: str | None = None,
    probe: PublishedProbe | None = None,
) -> LoadedModel:
    """The same for tensors that are already in memory, or on the meta device (then so is the model)."""
    layout = recognise(contents)
    if layout.read is None:
        return _read(contents, layout, which, licence, name, probe)
    loaded = layout.read(contents, which)
    found = loaded.provenance or Provenance(str(contents.path), layout.name, loaded.which)
    known = replace(found, licence=found.licence or licence, name=found.name or name)
    return replace(loaded, provenance=known, probe=loaded.probe or probe)


def published_state(loaded: LoadedModel, layout: Layout) -> dict[str, Tensor]:
    """The model's tensors under the names of a published layout, fixed tables included: what its authors' code loads.

    Raises:
        CheckpointError: the layout is no plain renaming.
    """
    if layout.key_map is None:
        raise CheckpointError(f"the layout {layout.name} is no plain renaming of our tensors")
    parts = {"online": loaded.online, "target": loaded.target, "predictor": loaded.predictor}
    present = {part: network for part, network in parts.items() if network is not None}
    ours = {f"{part}.{key}": value for part, network in present.items() for key, value in network.state_dict().items()}
    tables = {f"{part}.{key}": value for part, network in present.items() for key, value in network.named_buffers()}
    return layout.key_map.inverse().apply(ours, tables).tensors


def inspect_weights(path: str | Path, hints: Mapping[str, Any] | None = None) -> Inspected:
    """What :func:`import_weights` would make of a file: layout, architecture, the table of keys.

    Raises:
        CheckpointError, ConfigError: as there.
    """
    contents = read_contents(path, hints)
    layout = recognise(contents)
    architecture: dict[str, Any] = {}
    if layout.recipe is not None:
        recipe = _recipe(contents, layout)
        architecture = {
            "model": recipe.model.model_dump(mode="json", exclude_defaults=True, exclude={"arch"}),
            "predictor": recipe.predictor.model_dump(mode="json"),
            "image_size": list(recipe.image_hw),
            "frames": recipe.frames,
        }
    keys = _rows(contents, layout) if layout.key_map is not None else ()
    return Inspected(contents.path, layout.name, layout.about, tuple(contents.sections()), architecture, keys)


def _read(
    contents: Contents,
    layout: Layout,
    which: Which,
    licence: str | None,
    name: str | None,
    probe: PublishedProbe | None,
) -> LoadedModel:
    """Rename, place the encoders, build and load strictly."""
    assert layout.key_map is not None
    recipe = _recipe(contents, layout)
    mapped = layout.key_map.apply(contents.tensors)
    parts = {part: found for part, found in split_parts(mapped.tensors).items() if part in _PARTS}
    stray = [key for key in mapped.tensors if key.split(".")[0] not in _PARTS]
    if stray:
        raise CheckpointError(
            f"'{contents.path}' holds {len(stray)} tensors we know nothing of ({', '.join(stray[:3])})"
        )
    encoders = [part for part in ("online", "target") if part in parts]
    chosen = _choose(encoders, which, recipe, contents)
    if len(encoders) == 1:
        parts[chosen] = parts.pop(encoders[0])
    choice = len(encoders) == 2 and recipe.target.averaged and "target_encoder" in contents.sections()
    provenance = Provenance(
        source=str(contents.path),
        layout=layout.name,
        which=_their_name(contents, encoders, chosen),
        licence=licence,
        name=name,
        notes=(*layout.notes, *_notes(parts, mapped, choice)),
    )
    loaded = assemble(parts, recipe, contents.path, chosen, provenance=provenance, probe=probe)
    _check_tables(loaded, mapped, contents)
    return loaded


def _choose(encoders: Sequence[str], which: Which, recipe: Recipe, contents: Contents) -> Which:
    """The part to hand out; where there is one encoder only, it is that one, whatever it is called."""
    if not encoders:
        raise CheckpointError(f"'{contents.path}' holds no encoder, only {', '.join(contents.sections())}")
    wanted: Which = recipe.deployed if which == "deployed" else which
    return wanted if len(encoders) == 1 or wanted in encoders else ("target" if "target" in encoders else "online")


def _their_name(contents: Contents, encoders: Sequence[str], chosen: str) -> str:
    """What the file calls the encoder that is handed out."""
    part = chosen if chosen in encoders else encoders[0]
    names = _ONLINE if part == "online" else _TARGET
    return next((name for name in names if any(key.startswith(f"{name}.") for key in contents.tensors)), part)


def _notes(parts: Mapping[str, Any], mapped: Mapped, choice: bool) -> list[str]:
    """One line each for what is missing or was left out. choice: whether copies elsewhere hold another of its encoders."""
    notes = []
    if choice:
        notes.append(
            "the slow average (target_encoder) is what the authors evaluate; torch.hub at first and Hugging Face's copies "
            "hold the online encoder"
        )
    if "predictor" not in parts:
        notes.append("no predictor in this file")
    reasons = {drop.reason for drop in mapped.dropped.values() if not drop.reason.startswith("fixed")}
    return notes + sorted(f"left out: {reason}" for reason in reasons)


def _recipe(contents: Contents, layout: Layout) -> Recipe:
    """The inferred recipe; what the schema refuses is one line about the file."""
    assert layout.recipe is not None
    try:
        return layout.recipe(contents)
    except ValidationError as error:
        raise CheckpointError(
            f"'{contents.path}' describes no model we can build ({error.errors()[0]['msg']})"
        ) from error


def _check_tables(loaded: LoadedModel, mapped: Mapped, contents: Contents) -> None:
    """Fixed tables in the file must be those we compute, else every feature would be wrong without a word."""
    networks = {"online": loaded.online, "target": loaded.target, "predictor": loaded.predictor}
    for key, drop in mapped.dropped.items():
        part, _, name = key.partition(".")
        network = networks.get(part)
        ours = dict(network.named_buffers()).get(name) if network is not None else None
        if ours is None or drop.tensor.is_meta:
            continue
        if ours.shape != drop.tensor.shape or float((ours - drop.tensor).abs().max()) > 1e-3:
            raise CheckpointError(
                f"'{contents.path}': its position table '{key}' {tuple(drop.tensor.shape)} is not that of "
                f"{loaded.config.image_hw[0]}×{loaded.config.image_hw[1]} px: give the hints image_size, frames, uniform_power"
            )


def _rows(contents: Contents, layout: Layout) -> tuple[KeyRow, ...]:
    """Their names beside ours. A tensor made of several stands behind the first of them."""
    assert layout.key_map is not None
    mapped = layout.key_map.apply(contents.tensors)
    ours: dict[int, str] = {id(value): key for key, value in mapped.tensors.items()}
    left: dict[int, str] = {id(drop.tensor): drop.reason for drop in mapped.dropped.values()}
    return tuple(_row(theirs, value, ours, left) for theirs, value in contents.tensors.items())


def _row(theirs: str, value: Tensor, ours: Mapping[int, str], left: Mapping[int, str]) -> KeyRow:
    shape, place = tuple(value.shape), id(value)
    if place in ours:
        return KeyRow(theirs, ours[place], shape)
    return KeyRow(theirs, None, shape, left.get(place, "joined with others, or split"))
