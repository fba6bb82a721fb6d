"""A model for other programs: our directory, Hugging Face, timm, ONNX, ``torch.export``; each verified before it exists."""

from openjepa.exporting.dispatch import export
from openjepa.exporting.graph import Output
from openjepa.exporting.inputs import Dynamic, InputPlan, plan_input
from openjepa.exporting.publish import Pushed, push
from openjepa.exporting.result import Exported, Format
from openjepa.exporting.verify import TOLERANCE, Check

__all__ = [
    "TOLERANCE",
    "Check",
    "Dynamic",
    "Exported",
    "Format",
    "InputPlan",
    "Output",
    "Pushed",
    "export",
    "plan_input",
    "push",
]
