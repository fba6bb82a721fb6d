"""Attentive probes as published (official.md §6.2, §7.1): V-JEPA's, V-JEPA 2's and those of Epic-Kitchens actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub.imports.infer import HEADS
from openjepa.hub.provenance import PublishedProbe
from openjepa.hub.strict import load_strict
from openjepa.hub.tensorfile import read_tensors
from openjepa.models.attentive import ActionClassifier, AttentiveClassifier, Form

_SECTIONS = ("classifier.", "module.")
_SEVERAL = "classifiers."
_KEPT = ("pooler.", "linear.", "verb_classifier.", "noun_classifier.", "action_classifier.")
_CROSS = "pooler.cross_attention_block."
VJEPA2_HEADS = 16  # of every published V-JEPA 2 probe, whatever its width


def import_probe(
    path: str | Path, *, heads: int | None = None, number: int = 0, classes: Sequence[str] = ()
) -> PublishedProbe:
    """Open a published attentive classifier, strictly.

    heads: by default those of the published ones: as the encoder of that width (V-JEPA), 16 (V-JEPA 2). number: which of
    the probes of one file (V-JEPA 2 files hold one for each setting that was tried). classes: names of the logits.

    Raises:
        CheckpointError: no such file, not an attentive classifier, names that do not match, or fewer probes than that.
        ConfigError: heads that cannot be told, or as many classes as there are not.
    """
    tensors = _bare(read_tensors(path), str(path), number)
    probe = _build(tensors, str(path), heads, None)
    logits = getattr(probe, "linear", None)
    if classes and (logits is None or len(classes) != logits.out_features):
        raise ConfigError(
            f"'{path}' has {'three sets of' if logits is None else logits.out_features} logits, not {len(classes)}"
        )
    return PublishedProbe(probe, tuple(classes), str(path))


def read_probe(path: str, heads: int, form: Form | None = None) -> AttentiveClassifier:
    """Build a published attentive classifier from its file, strictly: every name and shape must match.

    Width, depth, classes and whether the block is complete come from the shapes; ``heads`` is not in them. ``form``: by
    default ``vjepa`` when the file has the unused output projection. Of a file of many probes the first is read.

    Raises:
        CheckpointError: no such file, not an attentive classifier, or names that do not match.
    """
    probe = _build(_bare(read_tensors(path), path, 0), path, heads, form)
    if not isinstance(probe, AttentiveClassifier):
        raise CheckpointError(f"'{path}' classifies verbs, nouns and actions: import_probe opens it")
    return probe


def _build(
    tensors: Mapping[str, Tensor], path: str, heads: int | None, form: Form | None
) -> AttentiveClassifier | ActionClassifier:
    """The network the names and shapes are of, filled."""
    query = tensors.get("pooler.query_tokens")
    last = [
        tensors.get(f"{name}.weight") for name in ("linear", "verb_classifier", "noun_classifier", "action_classifier")
    ]
    if query is None or query.ndim != 3 or (last[0] is None and any(layer is None for layer in last[1:])):
        raise CheckpointError(f"'{path}' is no attentive classifier: it has no pooler.query_tokens and linear.weight")
    dim = query.shape[-1]
    complete = f"{_CROSS}mlp.fc1.weight" in tensors
    depth = 1 + len({key.split(".")[2] for key in tensors if key.startswith("pooler.blocks.")})
    unused = f"{_CROSS}xattn.proj.weight" in tensors or f"{_CROSS}proj.weight" in tensors
    many = heads or (HEADS.get(dim) if unused else VJEPA2_HEADS)
    if many is None:
        raise ConfigError(f"'{path}' does not tell how many heads a probe {dim} wide has: give heads")
    probe: AttentiveClassifier | ActionClassifier
    if last[0] is None:
        probe = ActionClassifier(dim, many, *(len(layer) for layer in last[1:] if layer is not None), depth=depth)
    else:
        hidden = tensors[f"{_CROSS}mlp.fc1.weight"].shape[0] if complete else 4 * dim
        probe = AttentiveClassifier(
            dim,
            many,
            len(last[0]),
            depth=depth,
            mlp_ratio=hidden / dim,
            complete_block=complete,
            form=form or ("vjepa" if unused else "vjepa2"),
        )
    load_strict(probe, tensors)
    return probe.eval()


def _bare(tensors: Mapping[str, Tensor], path: str, number: int) -> dict[str, Tensor]:
    """Names without the section (``classifier``, one of ``classifiers``) and the wrapper's ``module.``."""
    found: dict[str, Tensor] = {}
    several = any(key.startswith(_SEVERAL) for key in tensors)
    chosen = f"{_SEVERAL}{number}."
    if several and not any(key.startswith(chosen) for key in tensors):
        count = len({key.split(".")[1] for key in tensors if key.startswith(_SEVERAL)})
        raise CheckpointError(f"'{path}' has {count} probes, so no number {number}")
    for key, tensor in tensors.items():
        if several and not key.startswith(chosen):
            continue
        name = key.removeprefix(chosen)
        for prefix in _SECTIONS:
            name = name.removeprefix(prefix)
        if name.startswith(_KEPT):
            found[name] = tensor
    return found
