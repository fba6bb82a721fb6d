"""Parity of attentive probes: the published classifier's logits for ``target_full`` (official.md §7.1).

Covers ``classifier_logits``; the check of a video system calls :func:`check_probe` (:mod:`openjepa.hub.parity_vjepa`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from openjepa.errors import CheckpointError
from openjepa.hub.golden import Golden, Ledger
from openjepa.hub.strict import load_strict
from openjepa.hub.tensorfile import read_tensors
from openjepa.models.attentive import AttentiveClassifier, Form

PROBE_FILE = "attentive_probe.pt"
_PREFIXES = ("classifier.", "classifiers.0.", "module.")


def read_probe(path: str, heads: int, form: Form | None = None) -> AttentiveClassifier:
    """Build a published attentive classifier from its file, strictly: every name and shape must match.

    Width, depth, classes and whether the block is complete come from the shapes; ``heads`` is not in them. ``form``: by
    default ``vjepa`` when the file has the unused output projection. Of a file of many probes the first is read.

    Raises:
        CheckpointError: no such file, not an attentive classifier, or names that do not match.
    """
    tensors = _bare(read_tensors(path))
    query, linear = tensors.get("pooler.query_tokens"), tensors.get("linear.weight")
    if query is None or linear is None or query.ndim != 3 or linear.ndim != 2:
        raise CheckpointError(f"'{path}' is no attentive classifier: it has no pooler.query_tokens and linear.weight")
    dim, cross = query.shape[-1], "pooler.cross_attention_block."
    complete = f"{cross}mlp.fc1.weight" in tensors
    depth = 1 + len({key.split(".")[2] for key in tensors if key.startswith("pooler.blocks.")})
    unused = f"{cross}xattn.proj.weight" in tensors or f"{cross}proj.weight" in tensors
    hidden = tensors[f"{cross}mlp.fc1.weight"].shape[0] if complete else 4 * dim
    probe = AttentiveClassifier(
        dim,
        heads,
        len(linear),
        depth=depth,
        mlp_ratio=hidden / dim,
        complete_block=complete,
        form=form or ("vjepa" if unused else "vjepa2"),
    )
    load_strict(probe, tensors)
    return probe.eval()


@torch.no_grad()
def check_probe(golden: Golden, ledger: Ledger) -> None:
    """Enter the logits of the directory's attentive probe, when it has one. ``target_full`` is read as input.

    Raises:
        CheckpointError: the directory has logits but no probe, or a malformed one.
    """
    if "classifier_logits" not in golden.tensors:
        return
    path = golden.path / PROBE_FILE
    if not path.is_file():
        raise CheckpointError(f"'{golden.path}' is malformed: it has classifier_logits but no {PROBE_FILE}")
    # meta.json gives one number of heads, the encoder's; the probe's own, where it says so, comes first.
    heads = golden.integer("probe_heads" if "probe_heads" in golden.meta else "heads")
    ledger.compare("classifier_logits", read_probe(str(path), heads)(golden.tensor("target_full")))


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the section (``classifier``, the first of ``classifiers``) and the wrapper's ``module.``."""
    several = any(key.startswith("classifiers.") for key in tensors)
    found = {}
    for key, tensor in tensors.items():
        if several and not key.startswith("classifiers.0."):
            continue
        for prefix in _PREFIXES:
            key = key.removeprefix(prefix)
        if key.startswith(("pooler.", "linear.")):
            found[key] = tensor
    return found
