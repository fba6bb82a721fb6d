"""ONNX and ``.pt2`` files: written from a captured graph, opened again as anybody else would, and run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from openjepa.errors import ConfigError, require
from openjepa.exporting.graph import first_line, quiet
from openjepa.exporting.inputs import InputPlan

Run = Callable[[Tensor], Tensor]
METADATA = "openjepa.json"  # of a .pt2; an ONNX file has the same as metadata_props
SINGLE_FILE = 1_800_000_000  # bytes of weights; a protobuf file ends at 2 GiB, so bigger ones lie beside it
OPSETS = range(18, 24)  # what torch's exporter writes


def write_pt2(path: Path, program: ExportedProgram, about: Mapping[str, str]) -> None:
    """Save the program as torch does, with a note of where it comes from as extra file ``openjepa.json``."""
    program.example_inputs = None  # a clip of 64 frames is 100 MB, and nobody needs it
    with quiet():
        torch.export.save(program, path, extra_files={METADATA: json.dumps(dict(about))})


def open_pt2(path: Path) -> Run:
    """The saved program, as ``torch.export.load(path).module()``."""
    with quiet():
        module = torch.export.load(path).module()

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return module(x)

    return run


def write_onnx(
    path: Path,
    program: ExportedProgram,
    plan: InputPlan,
    output: str,
    about: Mapping[str, str],
    opset: int | None = None,
) -> None:
    """Translate and save; weights above :data:`SINGLE_FILE` lie beside ``path`` in ``NAME.onnx.data``.

    output: name of the graph's output. opset: None for the exporter's usual one.

    Raises:
        MissingExtra: onnx or onnxscript is not installed. ConfigError: an opset out of range, or an operator that ONNX lacks.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require(name, "export")
    if opset is not None and opset not in OPSETS:
        raise ConfigError(f"opset {opset} cannot be written: {OPSETS.start} to {OPSETS.stop - 1} can")
    axes: dict[int, Any] = plan.dims()
    try:
        with quiet():
            made: Any = torch.onnx.export(
                program,
                (plan.example(),),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[plan.name],
                output_names=[output],
                dynamic_shapes=(axes,),
            )
    except Exception as error:  # the exporter wraps whatever its translation of an operator raised
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        advice = ": try --dynamic batch" if "height" in plan.dynamic else ""
        raise ConfigError(f"this graph cannot be translated to ONNX ({first_line(cause)}){advice}") from error
    made.model.metadata_props.update(about)
    made.save(str(path), external_data=weight_bytes(program) > SINGLE_FILE)


def open_onnx(path: Path) -> Run:
    """The file in ONNX Runtime on the CPU, with as many threads as torch has."""
    runtime: Any = require("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def weight_bytes(program: ExportedProgram) -> int:
    """Bytes of everything a program carries."""
    held = [value for value in (*program.state_dict.values(), *program.constants.values()) if isinstance(value, Tensor)]
    return sum(value.numel() * value.element_size() for value in held)
