"""Frozen evaluation of any encoder: kNN and linear scores with protocol, interval and baselines, and training probes."""

from openjepa.evaluation.evaluate import EVALUATORS, RAW_PIXELS, evaluate
from openjepa.evaluation.knn import knn
from openjepa.evaluation.linear import linear
from openjepa.evaluation.probe import Probe, make_probe
from openjepa.evaluation.request import Bench, Evaluator, Request, Settings
from openjepa.evaluation.score import Score, format_table, notes, read_scores, table_rows, wilson, write_scores

__all__ = [
    "EVALUATORS",
    "RAW_PIXELS",
    "Bench",
    "Evaluator",
    "Probe",
    "Request",
    "Score",
    "Settings",
    "evaluate",
    "format_table",
    "knn",
    "linear",
    "make_probe",
    "notes",
    "read_scores",
    "table_rows",
    "wilson",
    "write_scores",
]
