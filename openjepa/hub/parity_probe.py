"""Parity of attentive probes: the published classifier's logits for ``target_full`` (official.md §7.1).

Covers ``classifier_logits``; the check of a video system calls :func:`check_probe` (:mod:`openjepa.hub.parity_vjepa`).
"""

from __future__ import annotations

import torch

from openjepa.errors import CheckpointError
from openjepa.hub.golden import Golden, Ledger
from openjepa.hub.imports.probes import read_probe

PROBE_FILE = "attentive_probe.pt"


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
