"""Model directories: ours, Hugging Face's, timm's. Written beside their place, opened by their own library, compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openjepa.errors import ConfigError
from openjepa.exporting.graph import frozen
from openjepa.exporting.inputs import plan_input
from openjepa.exporting.place import place_for
from openjepa.exporting.readers import read_hf, read_hf_classifier, read_ours, read_timm
from openjepa.exporting.result import Exported, Format, files_at
from openjepa.exporting.verify import Check, check_export
from openjepa.hub.card import ModelCard
from openjepa.hub.hf_native import save_hf_model
from openjepa.hub.model_directory import LoadedModel, save_model
from openjepa.hub.provenance import Provenance
from openjepa.hub.timm_vit import save_timm_model
from openjepa.model import AnyModel, Model
from openjepa.models.attentive import AttentiveClassifier
from openjepa.models.linear_head import LinearHead


@dataclass(frozen=True)
class Writer:
    """How one directory format is written and read back. reader: in words. left_out: what it cannot hold, of a model."""

    save: Callable[[Path, LoadedModel], Path]
    open: Callable[[Path], Callable[[Tensor], Tensor]]
    reader: str
    left_out: Callable[[LoadedModel, Path], tuple[str, ...]]


def save_ours(folder: Path, loaded: LoadedModel) -> Path:
    """The model directory of :func:`openjepa.hub.model_directory.save_model`, every part, with card and provenance.

    Raises:
        ConfigError: another encoder than the deployed one was asked for: all are in it.
    """
    recipe = loaded.config
    if loaded.which != recipe.deployed:
        raise ConfigError(
            f"safetensors keeps every encoder: leave out which={loaded.which}, and give it to openjepa.load instead"
        )
    named = {"target": loaded.target, "online": loaded.online, "predictor": loaded.predictor}
    parts = {name: part.state_dict() for name, part in named.items() if part is not None}
    head = loaded.probe if loaded.probe is not None and isinstance(loaded.probe.classifier, LinearHead) else None
    return save_model(folder, parts, recipe, card_of(loaded), probe=head)


def card_of(loaded: LoadedModel) -> ModelCard:
    """The card the source had, as far as it had one."""
    found: Mapping[str, Any] = loaded.info.get("card") or {}
    scores = {name: float(value) for name, value in (found.get("scores") or {}).items() if value is not None}
    return ModelCard(
        step=found.get("step", loaded.step),
        samples=found.get("samples"),
        data=found.get("data"),
        verdict=found.get("verdict"),
        scores=scores,
        notes=tuple(found.get("notes") or ()),
        provenance=None if loaded.provenance is None else public(loaded.provenance),
    )


def public(provenance: Provenance) -> Provenance:
    """The same without the folders of this machine: what is exported is shown to others."""
    source = provenance.source
    local = "://" not in source and not source.startswith(("hf:", "timm:"))
    return replace(provenance, source=Path(source).name) if local else provenance


def _ours_leaves_out(loaded: LoadedModel, folder: Path) -> tuple[str, ...]:
    probe = loaded.probe
    if probe is None or isinstance(probe.classifier, LinearHead):
        return ()
    return (f"its classifier ({type(probe.classifier).__name__}) is left out: a model directory holds linear ones",)


def _hf_leaves_out(loaded: LoadedModel, folder: Path) -> tuple[str, ...]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    notes = [f"opens in transformers as {', '.join(config.get('architectures', ['AutoModel']))}"]
    predicts = config["model_type"] == "vjepa2" or "decoder_hidden_size" in config
    if loaded.predictor is not None and not predicts:
        notes.append(f"the predictor is left out: transformers' {config['model_type']} has none")
    if loaded.probe is not None and not _classifies(loaded, folder):
        notes.append("the classifier is left out")
    return tuple(notes)


def _timm_leaves_out(loaded: LoadedModel, folder: Path) -> tuple[str, ...]:
    name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architecture"]
    notes = [f"opens in timm as timm.create_model('local-dir:FOLDER', pretrained=True), a {name}"]
    left = [what for what, part in (("predictor", loaded.predictor), ("classifier", loaded.probe)) if part is not None]
    return (*notes, *(f"the {what} is left out: timm's network has none" for what in left))


WRITERS: dict[Format, Writer] = {
    "safetensors": Writer(save_ours, read_ours, "openjepa.load", _ours_leaves_out),
    "hf": Writer(save_hf_model, read_hf, "transformers", _hf_leaves_out),
    "timm": Writer(save_timm_model, read_timm, "timm", _timm_leaves_out),
}


def export_directory(model: AnyModel, path: Path, format: Format, card: Callable[[Exported], str] | None) -> Exported:
    """Write ``model`` as directory ``path``.

    card: makes the README.md of formats that bring none of their own; None: none is written.

    Raises:
        ConfigError: not a model of ours. CheckpointError: the format cannot hold it, or it computes something else.
        RunError: it cannot be written.
    """
    if not isinstance(model, Model):
        raise ConfigError(f"'{model.name}' is another library's network: export it as onnx or pt2, or from its library")
    writer, loaded = WRITERS[format], model.loaded
    kept = [part for part in (loaded.encoder, loaded.target, loaded.online, loaded.predictor) if part is not None]
    networks = nn.ModuleList(dict.fromkeys(kept))
    takes, inputs = _inputs(model, format)
    with frozen(networks), place_for(path, networks) as place:
        writer.save(place, loaded)
        with torch.no_grad():
            checks = _check(model, writer, place, inputs)
        notes, error = writer.left_out(loaded, place), max(check.error for check in checks)
        gives = f"tokens (batch, N, {model.encoder.embed_dim})"
        done = Exported(path, format, error, takes, gives, (), checks, notes)
        if card is not None and format != "safetensors":
            (place / "README.md").write_text(card(done), encoding="utf-8")
    return replace(done, files=files_at(path))


def _inputs(model: Model, format: Format) -> tuple[str, list[Tensor]]:
    """What the network takes, in words, and inputs of two batch sizes to compare it on."""
    points = model.config.data.points
    if points is not None and format == "safetensors":
        generator = torch.Generator().manual_seed(0)
        shapes = [(batch, points.groups, 1 + points.group_size, 3) for batch in (1, 2)]
        words = f"points (batch, {points.groups}, {1 + points.group_size}, 3) float32, each group behind its centre"
        return words, [torch.randn(shape, generator=generator) for shape in shapes]
    plan = plan_input(model, dynamic="batch")
    brief = plan
    if model.encoder.positions.kind in ("sincos3d", "rope3d"):  # which go on in time in every library
        brief = replace(plan, frames=plan.short_of())
    return plan.describe(), [plan.draw(shape) for shape in brief.checks()]


def _check(model: Model, writer: Writer, place: Path, inputs: list[Tensor]) -> tuple[Check, ...]:
    """The encoder on every input, and the classifier where it was written too."""
    checks = check_export(writer.open(place), model.encoder.forward_features, inputs, writer.reader)
    if writer.open is read_hf and _classifies(model.loaded, place):
        assert model.probe is not None
        head, features = model.probe.classifier, model.encoder.forward_features
        read = read_hf_classifier(place)
        checks += check_export(read, lambda x: head(features(x)), inputs[:1], "transformers' classifier")
    return checks


def _classifies(loaded: LoadedModel, folder: Path) -> bool:
    """Whether a Hugging Face directory holds the classifier that came with a model."""
    if loaded.probe is None or not isinstance(loaded.probe.classifier, AttentiveClassifier):
        return False
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return "VJEPA2ForVideoClassification" in config.get("architectures", ())
