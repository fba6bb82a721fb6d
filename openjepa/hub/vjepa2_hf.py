"""V-JEPA 2 in the Hugging Face layout, both ways: ``VJEPA2Model`` and ``VJEPA2ForVideoClassification`` (official.md §6.6).

Reading and writing need no ``transformers``: ``config.json`` and ``model.safetensors`` are enough. Where transformers computes
something else than the published program, the weights are the same and this is what differs:

- rotary places come from ``crop_size``, whatever the size of the clip: other sizes agree with us at ``crop_size`` only;
- ``context_mask`` picks tokens *behind* the whole encoder: its predictor sees context that has seen everything. For the same
  numbers gather ``encoder.forward_features(clip)``; ``MaskedLatent.predict`` encodes visible tokens alone, as in training;
- the predictor uses mask token 1, and ``target_hidden_state`` is not layer-normed;
- the pooler has the encoder's number of heads and its layer norms' epsilon; published probes have 16 heads and 1e-5.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from openjepa.errors import CheckpointError
from openjepa.hub.atomic import write_directory
from openjepa.hub.keymaps import KeyMap, Merge, Rename, Rule, Unstack, register_map
from openjepa.hub.strict import load_strict
from openjepa.hub.tensorfile import read_tensors
from openjepa.hub.vjepa2_hf_config import PROCESSOR, config_of, processor_of, recipe_of
from openjepa.methods import MaskedLatent, build_method
from openjepa.models.attentive import AttentiveClassifier
from openjepa.models.transformer import LAYER_NORM_EPS

MASK_TOKEN = 1  # of all that a file holds, the one transformers predicts with
_INSIDE = "vjepa2."  # in front of the model's names in a file of the classifier
_PROBE = ("pooler.", "classifier.")


def _blocks(theirs: str, ours: str) -> tuple[Rule, ...]:
    """One stack of blocks: three projections become one, rows ordered query, key, value."""
    source, target = f"{theirs}.{{i:int}}", f"{ours}.{{i}}"
    parts = tuple(f"{source}.attention.{name}.{{p}}" for name in ("query", "key", "value"))
    return (
        Merge(parts, f"{target}.attn.qkv.{{p}}"),
        Rename(f"{source}.attention.proj.{{p}}", f"{target}.attn.proj.{{p}}"),
        Rename(f"{source}.{{key:rest}}", f"{target}.{{key}}"),
    )


VJEPA2_HF = register_map(
    KeyMap(
        "vjepa2-hf",
        "VJEPA2Model of Hugging Face transformers: encoder (our online) and predictor",
        (
            Rename("encoder.embeddings.patch_embeddings.{key:rest}", "online.patch_embed.{key}"),
            *_blocks("encoder.layer", "online.blocks"),
            Rename("encoder.layernorm.{p}", "online.norm.{p}"),
            Rename("predictor.embeddings.predictor_embeddings.{p}", "predictor.predictor_embed.{p}"),
            Unstack("predictor.embeddings.mask_tokens", "predictor.mask_tokens.{n:int}", sole="predictor.mask_token"),
            *_blocks("predictor.layer", "predictor.predictor_blocks"),
            Rename("predictor.layernorm.{p}", "predictor.predictor_norm.{p}"),
            Rename("predictor.proj.{p}", "predictor.predictor_proj.{p}"),
        ),
    )
)

_CROSS, _OURS = "pooler.cross_attention_layer", "pooler.cross_attention_block"
_SELF, _BLOCK = "pooler.self_attention_layers.{i:int}", "pooler.blocks.{i}"
VJEPA2_PROBE_HF = register_map(
    KeyMap(
        "vjepa2-probe-hf",
        "pooler and classifier of VJEPA2ForVideoClassification: our AttentiveClassifier",
        (
            Rename(f"{_CROSS}.layer_norm{{n:int}}.{{p}}", f"{_OURS}.norm{{n}}.{{p}}"),
            Rename(f"{_CROSS}.cross_attn.q_proj.{{p}}", f"{_OURS}.xattn.q.{{p}}"),
            Merge(tuple(f"{_CROSS}.cross_attn.{k}_proj.{{p}}" for k in "kv"), f"{_OURS}.xattn.kv.{{p}}"),
            Rename(f"{_CROSS}.mlp.{{key:rest}}", f"{_OURS}.mlp.{{key}}"),
            Rename(f"{_SELF}.layer_norm{{n:int}}.{{p}}", f"{_BLOCK}.norm{{n}}.{{p}}"),
            Merge(tuple(f"{_SELF}.self_attn.{k}_proj.{{p}}" for k in "qkv"), f"{_BLOCK}.attn.qkv.{{p}}"),
            Rename(f"{_SELF}.self_attn.out_proj.{{p}}", f"{_BLOCK}.attn.proj.{{p}}"),
            Rename(f"{_SELF}.mlp.{{key:rest}}", f"{_BLOCK}.mlp.{{key}}"),
            Rename("classifier.{p}", "linear.{p}"),
        ),
    )
)


@dataclass(frozen=True)
class Opened:
    """A V-JEPA 2 read from the Hugging Face layout, in evaluation mode on the CPU.

    method: encoder and predictor as our method; target and online encoder are both the one of the file. probe: the
    classifier on the encoder's tokens, where the file has one. classes: what its logits stand for.
    """

    method: MaskedLatent
    probe: AttentiveClassifier | None
    classes: tuple[str, ...]


def open_vjepa2(folder: str | Path) -> Opened:
    """Read ``config.json`` and the weights beside it; every tensor must match.

    Raises:
        CheckpointError: a file is missing, it is no V-JEPA 2, or a weight does not fit.
    """
    folder = Path(folder)
    config = _config(folder)
    recipe = recipe_of(config, str(folder), _processor(folder))
    weights = {key.removeprefix(_INSIDE): value for key, value in _weights(folder).items()}
    probe = {key: weights.pop(key) for key in list(weights) if key.startswith(_PROBE)}
    found = VJEPA2_HF.apply(weights).tensors
    online = {key: value for key, value in found.items() if key.startswith("online.")}
    with torch.random.fork_rng(devices=[]):
        method = build_method(recipe)
        assert isinstance(method, MaskedLatent)
        load_strict(method, {**found, **{f"target.{key.removeprefix('online.')}": v for key, v in online.items()}})
        labels = config.get("id2label") or {}
        classes = tuple(str(labels[key]) for key in sorted(labels, key=int))
        return Opened(method.eval(), _probe(config, probe) if probe else None, classes if probe else ())


def save_vjepa2(
    folder: str | Path,
    method: MaskedLatent,
    probe: AttentiveClassifier | None = None,
    classes: Sequence[str] = (),
    *,
    which: Literal["deployed", "target", "online"] = "deployed",
) -> Path:
    """Write a directory that ``VJEPA2Model.from_pretrained`` (with ``probe``: ``VJEPA2ForVideoClassification``) opens.

    which: the encoder to write; ``deployed`` is the slow average where there is one. An older directory is replaced.
    A probe whose layer norms have another epsilon than the encoder (ours have 1e-5) is written with a warning:
    transformers has one epsilon for all, so its logits differ a little.

    Raises:
        CheckpointError: transformers has no such model: it knows tiled rotary positions, square clips, one predictor form.
        RunError: it cannot be written.
    """
    config = config_of(method, probe, classes)
    state = dict(method.state_dict())
    part = method.recipe.deployed if which == "deployed" else which
    chosen = {key.partition(".")[2]: value for key, value in state.items() if key.startswith(f"{part}.")}
    if not chosen:
        raise CheckpointError(f"cannot save '{folder}': the method has no {part} encoder")
    ours = {f"online.{key}": value for key, value in chosen.items()}
    ours |= {key: value for key, value in state.items() if key.startswith("predictor.")}
    theirs = VJEPA2_HF.inverse().apply(ours).tensors
    if probe is not None:
        theirs = {f"{_INSIDE}{key}": value for key, value in theirs.items()}
        theirs |= VJEPA2_PROBE_HF.inverse().apply(probe.state_dict()).tensors
    files = {
        "config.json": config,
        "model.safetensors": {key: value.contiguous() for key, value in theirs.items()},
        PROCESSOR: processor_of(method.recipe),
    }
    return write_directory(folder, files, replace=True)


def _probe(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> AttentiveClassifier:
    """The classifier as transformers computes it: heads of the encoder, epsilon of the encoder, MLP of four widths."""
    found = VJEPA2_PROBE_HF.apply(weights).tensors
    if "linear.weight" not in found:
        raise CheckpointError("a pooler without classifier.weight is no V-JEPA 2 classifier")
    classes, dim = found["linear.weight"].shape
    depth = 1 + int(config.get("num_pooler_layers", 3))
    probe = AttentiveClassifier(dim, int(config.get("num_attention_heads", 16)), classes, depth=depth)
    load_strict(probe, found)
    for module in probe.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = LAYER_NORM_EPS
    return probe.eval()


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{folder}' has no config.json that can be read ({error})") from error
    if not isinstance(found, dict) or found.get("model_type") != "vjepa2":
        kind = found.get("model_type") if isinstance(found, dict) else None
        raise CheckpointError(f"'{folder}' is no V-JEPA 2: its config.json says model_type {kind!r}, not 'vjepa2'")
    return found


def _processor(folder: Path) -> dict[str, Any]:
    """The video processor's settings; empty where there are none."""
    try:
        found = json.loads((folder / PROCESSOR).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{folder}': {PROCESSOR} cannot be read ({error})") from error
    return found if isinstance(found, dict) else {}


def _weights(folder: Path) -> dict[str, Tensor]:
    """All tensors, of one file or of the parts an index names."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return dict(read_tensors(folder / "model.safetensors"))
    try:
        parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"'{index}' cannot be read ({error})") from error
    return {key: value for part in parts for key, value in read_tensors(folder / str(part)).items()}
