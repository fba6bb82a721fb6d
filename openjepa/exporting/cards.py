"""The README.md of exports that are no model directory of ours: what it is, how to run it, whose it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from openjepa.exporting.directories import card_of, public
from openjepa.exporting.result import Exported, Format
from openjepa.hub.card import front_matter, licence_entries, licence_words
from openjepa.model import AnyModel, ForeignModel, Model

_LIBRARY = {"safetensors": "openjepa", "hf": "transformers", "timm": "timm", "onnx": "onnx", "pt2": "pytorch"}


def licence_of(model: AnyModel) -> str | None:
    """Of the weights, where their source says it."""
    if isinstance(model, ForeignModel):
        return model.foreign.licence
    provenance = model.provenance if isinstance(model, Model) else None
    return None if provenance is None else provenance.licence


def title_of(model: AnyModel) -> str:
    """How a card calls a model."""
    if isinstance(model, Model) and model.provenance is None:
        return model.config.name
    return model.name.rstrip("/").rpartition("/")[2] or model.name


def render_export_card(model: AnyModel, done: Exported, *, repo: str | None = None, licence: str | None = None) -> str:
    """The card as Markdown with front matter. repo: where it is pushed to. licence: of the weights, instead of what is known."""
    kind = "image" if model.clip is None else "video"
    known = licence or licence_of(model)
    about = {
        **licence_entries(known),
        "library_name": _LIBRARY[done.format],
        "pipeline_tag": "image-feature-extraction" if kind == "image" else None,
        "tags": ["openjepa", "jepa", "self-supervised", f"{kind}-feature-extraction"],
    }
    lines = [
        *front_matter(about),
        "",
        f"# {title_of(model)}",
        "",
        f"{_origin(model, kind)} Exported with openjepa and checked: the largest difference from the source is "
        f"{done.error:.1e} of its largest value.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _facts(model, done).items()),
        "",
        *(f"- {note}" for note in done.notes),
        *([""] if done.notes else []),
        "```python",
        *_usage(done, repo),
        "```",
        "",
        "## Licence",
        "",
        _licence(model, known),
        "",
    ]
    return "\n".join(lines)


def _origin(model: AnyModel, kind: str) -> str:
    """One sentence: what, and where from."""
    if isinstance(model, Model):
        if model.provenance is not None:
            return f"An encoder of {kind}s, system `{model.config.system}`: {public(model.provenance)}."
        return f"An encoder of {kind}s pretrained with openjepa, system `{model.config.system}`, recipe `{model.config.name}`."
    return f"The encoder of {kind}s `{model.name}`."


def _facts(model: AnyModel, done: Exported) -> Mapping[str, str]:
    """What a reader wants to know at a glance."""
    found = [tensor for tensor in _tensors(model)]
    facts = {
        "encoder": f"{sum(tensor.numel() for tensor in found):,} parameters, width {model.encoder.embed_dim}",
        "takes": done.inputs,
        "gives": done.output,
    }
    for name, words in (("mean", "pixel mean"), ("std", "pixel deviation")):
        value = getattr(model.normalise, name, None)
        if isinstance(value, Tensor):
            facts[words] = ", ".join(f"{float(number):.4g}" for number in value.flatten()) + " (of pixels in 0..1)"
    if isinstance(model, Model):
        card = card_of(model.loaded)
        trained = [f"{card.step:,} steps"] if card.step else []
        trained += [f"{card.samples:,} samples"] if card.samples else []
        facts |= {"trained": ", ".join(trained)} if trained else {}
        facts |= {name: f"{100 * value:.1f} %" for name, value in card.scores.items()}
    return facts


def _tensors(model: AnyModel) -> Sequence[Tensor]:
    network = model.encoder
    parameters = getattr(network, "parameters", None)
    return list(parameters()) if parameters is not None else []


def _usage(done: Exported, repo: str | None) -> list[str]:
    """A few lines that run it."""
    name = repo or done.path.name
    usage: dict[Format, list[str]] = {
        "safetensors": ["import openjepa", "", f'model = openjepa.load("{name}")'],
        "hf": ["from transformers import AutoModel", "", f'model = AutoModel.from_pretrained("{name}").eval()'],
        "timm": [
            "import timm",
            "",
            f'model = timm.create_model("{"hf-hub" if repo else "local-dir"}:{name}", pretrained=True).eval()',
            "tokens = model.forward_features(images)",
        ],
        "onnx": [
            "import onnxruntime",
            "",
            f'session = onnxruntime.InferenceSession("{done.path.name}")',
            f"(result,) = session.run(None, {{session.get_inputs()[0].name: pixels}})  # {done.inputs}",
        ],
        "pt2": [
            "import torch",
            "",
            f'run = torch.export.load("{done.path.name}").module()',
            f"result = run(pixels)  # {done.inputs}",
        ],
    }
    return usage[done.format]


def _licence(model: AnyModel, licence: str | None) -> str:
    if isinstance(model, Model) and (model.provenance is not None or licence is None):
        return licence_words(None if model.provenance is None else public(model.provenance))
    if licence:
        return f"The licence of these weights is {licence}."
    return f"These weights are those of `{model.name}`, whose licence is not stated there: ask."
