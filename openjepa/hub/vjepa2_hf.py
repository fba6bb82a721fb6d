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

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from openjepa.config.schema import Recipe
from openjepa.errors import CheckpointError
from openjepa.hub.as_method import as_method
from openjepa.hub.hf_directory import OURS, Draft, HfDirectory, finish, read_hf_directory
from openjepa.hub.hf_vit import Published, state_of, write_published
from openjepa.hub.keymaps import KeyMap, Merge, Prefix, Rename, Rule, Unstack, register_map
from openjepa.hub.model_directory import LoadedModel, Which, split_parts
from openjepa.hub.provenance import PublishedProbe
from openjepa.hub.strict import load_strict
from openjepa.hub.vjepa2_hf_config import FPS, PROCESSOR, config_of, processor_of, recipe_of
from openjepa.methods import MaskedLatent
from openjepa.models import VisionTransformer
from openjepa.models.attentive import AttentiveClassifier
from openjepa.models.transformer import LAYER_NORM_EPS

_log = logging.getLogger(__name__)
KIND = "vjepa2"
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


VJEPA2_CLASSIFIER_HF = KeyMap(  # both in one file, for the table of keys
    "vjepa2-classifier-hf",
    "VJEPA2ForVideoClassification of Hugging Face transformers: encoder, predictor, classifier",
    (*VJEPA2_PROBE_HF.rules, *VJEPA2_HF.rules),
    prefixes=(Prefix(_INSIDE),),
)


def map_of(directory: HfDirectory) -> KeyMap:
    """The names of the bare model, or of model and classifier."""
    inside = any(key.startswith(_INSIDE) for key in directory.tensors)
    return VJEPA2_CLASSIFIER_HF if inside else VJEPA2_HF


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
    """Read ``config.json`` and the weights beside it as a method; every tensor must match.

    Raises:
        CheckpointError: a file is missing, it is no V-JEPA 2, or a weight does not fit.
    """
    loaded = open_vjepa2_model(folder)
    method = as_method(loaded)
    assert isinstance(method, MaskedLatent)
    classifier, classes = _attentive(loaded)
    return Opened(method, classifier, classes)


def open_vjepa2_model(folder: str | Path, which: Which = "deployed") -> LoadedModel:
    """Read a directory of ``VJEPA2Model`` or ``VJEPA2ForVideoClassification``: encoder, predictor, classifier.

    Raises:
        CheckpointError: a file is missing, it is no V-JEPA 2, or a weight does not fit.
    """
    directory = read_hf_directory(folder, KIND, "V-JEPA 2")
    return finish(directory, draft_vjepa2(directory), which)


def draft_vjepa2(directory: HfDirectory) -> Draft:
    """The directory in our words. Raises CheckpointError for what our networks do not have."""
    recipe = recipe_of(directory.config, str(directory.path), directory.processor)
    weights = {key.removeprefix(_INSIDE): value for key, value in directory.tensors.items()}
    probe = {key: weights.pop(key) for key in list(weights) if key.startswith(_PROBE)}
    parts = split_parts(VJEPA2_HF.apply(weights).tensors)
    notes = (
        []
        if directory.processor
        else ["preprocessing as the authors evaluate: the directory has no processor's settings"]
    )
    if directory.config.get(OURS) is None:
        notes.append(f"frames a second are not in the file: {FPS:g}, as in the published training")
    published = _published_probe(directory, probe) if probe else None
    if published is not None:
        heads = int(directory.get("num_attention_heads", 16))
        notes.append(
            f"the classifier is computed as transformers does, {heads} heads and the encoder's epsilon; the authors' has "
            "16 heads and 1e-5"
        )
    return Draft("vjepa2-hf", recipe, parts, tuple(notes), published)


def save_vjepa2_model(folder: str | Path, loaded: LoadedModel) -> Path:
    """:func:`save_vjepa2` of a model read from disk: its encoder (the one asked for), predictor, and classifier if it has one.

    Raises:
        CheckpointError: transformers has no such model; a predictor belongs to it. RunError: it cannot be written.
    """
    return write_published(folder, publish_vjepa2(loaded))


def publish_vjepa2(loaded: LoadedModel) -> Published:
    """What :func:`save_vjepa2_model` writes. Raises CheckpointError as there."""
    if loaded.predictor is None:
        raise CheckpointError("transformers' V-JEPA 2 cannot hold this model: it has a predictor, and this model none")
    classifier, classes = _attentive(loaded)
    return _published(loaded.config, loaded.encoder, loaded.predictor, classifier, classes)


def _attentive(loaded: LoadedModel) -> tuple[AttentiveClassifier | None, tuple[str, ...]]:
    """The classifier that came along and its classes; one of actions (three heads) is nothing transformers has."""
    if loaded.probe is None:
        return None, ()
    if not isinstance(loaded.probe.classifier, AttentiveClassifier):
        _log.warning("transformers' V-JEPA 2 has no %s: it is left out", type(loaded.probe.classifier).__name__)
        return None, ()
    return loaded.probe.classifier, loaded.probe.classes


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
    part = method.recipe.deployed if which == "deployed" else which
    encoder = getattr(method, part, None)
    if not isinstance(encoder, VisionTransformer):
        raise CheckpointError(f"cannot save '{folder}': the method has no {part} encoder")
    return write_published(folder, _published(method.recipe, encoder, method.predictor, probe, classes))


def _published(
    recipe: Recipe,
    encoder: VisionTransformer,
    predictor: nn.Module,
    probe: AttentiveClassifier | None,
    classes: Sequence[str],
) -> Published:
    """Configuration, weights and processor."""
    config = config_of(recipe, encoder, probe, classes)
    theirs = VJEPA2_HF.inverse().apply(state_of(encoder, "online") | state_of(predictor, "predictor")).tensors
    if probe is not None:
        theirs = {f"{_INSIDE}{key}": value for key, value in theirs.items()}
        theirs |= VJEPA2_PROBE_HF.inverse().apply(probe.state_dict()).tensors
    return Published(config, theirs, (PROCESSOR, processor_of(recipe)))


def _published_probe(directory: HfDirectory, weights: Mapping[str, Tensor]) -> PublishedProbe:
    """The classifier as transformers computes it: heads of the encoder, epsilon of the encoder, MLP of four widths."""
    found = VJEPA2_PROBE_HF.apply(weights).tensors
    if "linear.weight" not in found:
        raise CheckpointError("a pooler without classifier.weight is no V-JEPA 2 classifier")
    count, dim = found["linear.weight"].shape
    depth = 1 + int(directory.get("num_pooler_layers", 3))
    with torch.device("meta"):  # the file's tensors take the places of the weights
        probe = AttentiveClassifier(dim, int(directory.get("num_attention_heads", 16)), count, depth=depth)
    load_strict(probe, found)
    for module in probe.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = float(directory.get("layer_norm_eps", LAYER_NORM_EPS))
    return PublishedProbe(probe.eval(), directory.classes, str(directory.path))
