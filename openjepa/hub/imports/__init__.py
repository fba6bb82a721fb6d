"""Published weights: whose names a file has, what architecture it holds, and the model it becomes."""

from openjepa.hub.imports import layouts_ac, layouts_hf, layouts_points, layouts_v21, official
from openjepa.hub.imports.contents import HINTS, Contents, read_contents
from openjepa.hub.imports.layout import Layout, layouts, recognise, register_layout
from openjepa.hub.imports.opening import (
    Inspected,
    KeyRow,
    import_contents,
    import_weights,
    inspect_weights,
    published_state,
)
from openjepa.hub.imports.probes import import_probe, read_probe

__all__ = [
    "HINTS",
    "Contents",
    "Inspected",
    "KeyRow",
    "Layout",
    "import_contents",
    "import_probe",
    "import_weights",
    "inspect_weights",
    "layouts",
    "layouts_ac",
    "layouts_hf",
    "layouts_points",
    "layouts_v21",
    "official",
    "published_state",
    "read_contents",
    "read_probe",
    "recognise",
    "register_layout",
]
