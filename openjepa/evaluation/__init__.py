"""Frozen evaluation of any encoder: kNN and linear scores with protocol, interval and baselines, and training probes."""

from openjepa.evaluation.evaluate import EVALUATORS, RAW_PIXELS, Settings, evaluate
from openjepa.evaluation.knn import knn
from openjepa.evaluation.linear import linear
from openjepa.evaluation.probe import Probe, make_probe
from openjepa.evaluation.score import Score, format_table, read_scores, wilson, write_scores

__all__ = [
    "EVALUATORS",
    "RAW_PIXELS",
    "Probe",
    "Score",
    "Settings",
    "evaluate",
    "format_table",
    "knn",
    "linear",
    "make_probe",
    "read_scores",
    "wilson",
    "write_scores",
]
