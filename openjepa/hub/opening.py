"""Whatever names a model, opened: a run, a file, a Hugging Face directory, ``timm:``, ``hf:``, a URL, a published name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from openjepa.errors import CheckpointError, ConfigError, nearest
from openjepa.hub.adapters import Foreign, is_foreign, open_encoder
from openjepa.hub.catalogue import UNKNOWN, published
from openjepa.hub.foreign_directory import foreign_directory, open_foreign_directory
from openjepa.hub.hf_native import is_native
from openjepa.hub.imports import import_probe, import_weights
from openjepa.hub.model_directory import DEPLOYED, LoadedModel, Which, load_model
from openjepa.hub.resolve import Resolved, is_download, resolve, resolve_probe
from openjepa.hub.timm_vit import is_timm_directory


def open_any(
    what: str | Path,
    *,
    which: Which = "deployed",
    hints: Mapping[str, Any] | None = None,
    probe: str | Path | None = None,
) -> LoadedModel | Foreign:
    """Open what ``what`` names; see :func:`openjepa.load`.

    Raises:
        CheckpointError: there is no such thing, it is damaged, or its weights do not match. ConfigError: ambiguous, or no
            such encoder in it. MissingExtra: a library it needs is not installed.
    """
    opened = _open(str(what), which, dict(hints or {}))
    if probe is None:
        return opened
    if isinstance(opened, Foreign):
        raise ConfigError(f"{opened.name} is an encoder of another library: published probes are for models of ours")
    found = import_probe(_probe_file(str(what), str(probe)))
    width = dict(found.classifier.named_parameters())["pooler.query_tokens"].shape[-1]
    if width != opened.encoder.embed_dim:
        raise CheckpointError(f"the probe '{probe}' is {width} wide, the encoder {opened.encoder.embed_dim}")
    return replace(opened, probe=found)


def _probe_file(what: str, probe: str) -> Path:
    """A file, a URL, or the task of a published probe for the model that was named."""
    if Path(probe).exists():
        return Path(probe)
    if probe.startswith(("http://", "https://")):
        return resolve(probe).path
    if is_download(what):
        return resolve_probe(what, probe)
    raise CheckpointError(f"there is no probe '{probe}': give a file, or a task with a published model's name")


def _open(what: str, which: Which, hints: Mapping[str, Any]) -> LoadedModel | Foreign:
    path = Path(what)
    if path.exists():
        return _local(path, which, hints, _beside(path))
    if is_download(what):
        found = resolve(what)
        return _local(found.path, which, {**found.hints, **hints}, found)
    if is_foreign(what):
        _refuse_hints(what, hints)
        return open_encoder(what)
    if "/" in what or "\\" in what:
        return load_model(path, which)
    known = [name for entry in published() for name in (entry.name, *entry.aliases)]
    near = nearest(what, [*known, *(other.name for other in Path().iterdir())])
    raise CheckpointError(f"there is no '{what}'{near}: no such run or file, no published model (openjepa models list)")


def _local(path: Path, which: Which, hints: Mapping[str, Any], origin: Resolved | None) -> LoadedModel | Foreign:
    """What lies on the disk. origin: what a catalogue knows of it."""
    native = path.is_file() and path.name != DEPLOYED
    native = native or (path.is_dir() and (path / "checkpoint.pt").is_file())
    native = native or is_timm_directory(path)
    kind = None if native else _model_type(path)
    if not native:
        _refuse_hints(str(path), {key: value for key, value in hints.items() if key != "family" or not is_native(path)})
    if native or is_native(path):
        hints = {**(origin.hints if origin is not None else {}), **hints}
        return _with_origin(import_weights(path, which=which, hints=hints), origin)
    tuned = foreign_directory(path)
    if tuned is not None:
        return open_foreign_directory(tuned)
    if kind is not None:
        foreign = open_encoder(path)
        if origin is None:
            return foreign
        return replace(foreign, name=origin.source, licence=origin.licence or foreign.licence)
    return load_model(path, which)


def _refuse_hints(what: str, hints: Mapping[str, Any]) -> None:
    """Raise ConfigError for hints that nobody would read: a model with a configuration of its own needs none."""
    if hints:
        raise ConfigError(
            f"'{what}' says itself what it is: the hints {', '.join(hints)} are for authors' weight files"
        )


def _with_origin(loaded: LoadedModel, origin: Resolved | None) -> LoadedModel:
    """The model with what the catalogue says of it."""
    found = loaded.provenance
    if origin is None or found is None:
        return loaded
    _check_size(loaded, origin)
    told = replace(
        found,
        source=origin.source,
        licence=origin.licence or found.licence,
        name=origin.name or found.name,
        notes=(*found.notes, *origin.notes),
        sha256=origin.sha256 or found.sha256,
    )
    return replace(loaded, provenance=told)


def _check_size(loaded: LoadedModel, origin: Resolved) -> None:
    """What a file is called, it must be: one cut to fewer whole blocks fits the architecture its own names suggest."""
    wanted = origin.entry.encoder if origin.entry is not None else {}
    found = {"dim": loaded.encoder.embed_dim, "depth": loaded.encoder.depth, "heads": loaded.encoder.heads}
    wrong = {key: value for key, value in found.items() if wanted.get(key, value) != value}
    if wrong:
        theirs = ", ".join(f"{key} {value}" for key, value in wrong.items())
        ours = ", ".join(f"{key} {wanted[key]}" for key in wrong)
        raise CheckpointError(f"'{origin.path}' is no {origin.name}: its encoder has {theirs} instead of {ours}")


def _beside(path: Path) -> Resolved | None:
    """What the catalogue says of a file that was fetched by hand: published files have names of their own."""
    if not path.is_file():
        return None
    for entry in published():
        for source in entry.sources:
            if source.kind == "official" and source.where.rpartition("/")[2] == path.name:
                licence = None if entry.licence == UNKNOWN else entry.licence
                return Resolved(path, str(path), entry, licence, entry.hints, (*source.notes, *entry.remarks))
    return None


def _model_type(path: Path) -> str | None:
    """What Hugging Face's ``config.json`` says the model is; None for a directory of ours or of nobody."""
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return (
        str(found["model_type"])
        if isinstance(found, dict) and "model_type" in found and "format" not in found
        else None
    )


def open_own(what: str | Path, which: Which = "deployed") -> LoadedModel:
    """Open a model of ours, however it is named: with its recipe, and with its predictor where the source has one.

    Raises:
        ConfigError: an encoder of timm or transformers that is none of our systems. Others as in :func:`open_any`.
    """
    opened = open_any(what, which=which)
    if isinstance(opened, Foreign):
        raise ConfigError(f"'{what}' is an encoder alone, of another library: this needs a model with its recipe")
    return opened
