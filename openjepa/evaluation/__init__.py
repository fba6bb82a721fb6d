"""Frozen evaluation of any encoder: scores with protocol, interval and baselines, comparisons, and training probes."""

from openjepa.evaluation.cka import cka_interval, cka_matrix, linear_cka
from openjepa.evaluation.contamination import Contamination, contamination, shared_files
from openjepa.evaluation.evaluate import EVALUATORS, RAW_PIXELS, evaluate
from openjepa.evaluation.kmeans import kmeans
from openjepa.evaluation.knn import knn
from openjepa.evaluation.linear import linear
from openjepa.evaluation.low_shot import low_shot
from openjepa.evaluation.masks import mask_consistency
from openjepa.evaluation.probe import Probe, make_probe
from openjepa.evaluation.request import Bench, Evaluator, Request, Settings
from openjepa.evaluation.retrieval import retrieval
from openjepa.evaluation.ridge import ridge
from openjepa.evaluation.scene_probes import scene_probes
from openjepa.evaluation.score import Score, format_table, notes, read_scores, table_rows, wilson, write_scores

__all__ = [
    "EVALUATORS",
    "RAW_PIXELS",
    "Bench",
    "Contamination",
    "Evaluator",
    "Probe",
    "Request",
    "Score",
    "Settings",
    "cka_interval",
    "cka_matrix",
    "contamination",
    "evaluate",
    "format_table",
    "kmeans",
    "knn",
    "linear",
    "linear_cka",
    "low_shot",
    "make_probe",
    "mask_consistency",
    "notes",
    "read_scores",
    "retrieval",
    "ridge",
    "scene_probes",
    "shared_files",
    "table_rows",
    "wilson",
    "write_scores",
]
