"""Training: the loop (start reading at :mod:`openjepa.training.loop`), the machine, run state, health."""

from openjepa.training.health import Thresholds, Verdict, judge
from openjepa.training.initial import InitialWeights
from openjepa.training.loop import train
from openjepa.training.metrics import read_rows
from openjepa.training.progress import Event
from openjepa.training.run import RunInfo, default_out, list_runs, read_run
from openjepa.training.session import Probe, RunResult
from openjepa.training.stages import Part as StagePart
from openjepa.training.stages import train_stages

__all__ = [
    "Event",
    "InitialWeights",
    "Probe",
    "RunInfo",
    "RunResult",
    "StagePart",
    "Thresholds",
    "Verdict",
    "default_out",
    "judge",
    "list_runs",
    "read_rows",
    "read_run",
    "train",
    "train_stages",
]
