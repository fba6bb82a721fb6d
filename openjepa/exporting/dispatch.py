"""``openjepa.export``: one model into one of five formats, verified before it exists."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from openjepa import __version__
from openjepa.errors import ConfigError, nearest
from openjepa.exporting.cards import licence_of, render_export_card
from openjepa.exporting.directories import export_directory
from openjepa.exporting.graph import OUTPUT_NAMES, ExportGraph, Output, build_graph, capture, frozen
from openjepa.exporting.graph_files import Run, open_onnx, open_pt2, write_onnx, write_pt2
from openjepa.exporting.inputs import Dynamic, InputPlan, plan_input
from openjepa.exporting.place import check_place, place_for
from openjepa.exporting.result import Exported, Format, files_at
from openjepa.exporting.verify import check_export
from openjepa.features import ClipOptions
from openjepa.hub.model_directory import Which
from openjepa.loading import load
from openjepa.model import AnyModel

GRAPHS = ("onnx", "pt2")


def export(
    model: AnyModel | str | Path,
    out: str | Path,
    format: Format = "safetensors",
    *,
    which: Which = "deployed",
    output: Output = "patch",
    preprocessing: bool = False,
    dynamic: Dynamic = "auto",
    size: int | tuple[int, int] | None = None,
    frames: int | None = None,
    as_images: bool = False,
    opset: int | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model for other programs, and check at once that what was written computes the same.

    Args:
        model: what :func:`openjepa.load` returns, or whatever it takes. which: the encoder, where ``model`` is a name.
        out: file (``onnx``, ``pt2``) or directory (``safetensors``, ``hf``, ``timm``).
        format: ``safetensors``: our model directory; ``hf``: a directory for ``transformers``; ``timm``: one for timm;
            ``onnx``; ``pt2``: torch.export. Foreign models become ``onnx`` and ``pt2`` only.
        output: of a graph: ``patch`` tokens ``(B, N, D)``, their mean ``pooled`` ``(B, D)``, or ``logits`` of the
            classifier that came along. preprocessing: the graph takes uint8 pixels and normalises them (resizing and
            cropping are yours). dynamic: axes of the graph that vary: as many as the network allows (``auto``), ``size``
            (refused where it cannot), ``batch``, ``none``. size, frames: of the input, where fixed. as_images: the graph
            of an encoder of video takes images, each as a clip of one tubelet. opset: of ONNX.
        overwrite: replace what an earlier export left at ``out``.

    Returns:
        what was written, and the largest error of all checks.

    Raises:
        ConfigError: an unknown choice, or a format that cannot hold this model. RunError: ``out`` is taken or cannot be
            written. CheckpointError: what was written differs by more than 1e-4; nothing is left. MissingExtra.
    """
    if format not in get_args(Format):
        known = get_args(Format)
        raise ConfigError(f"no export format '{format}'{nearest(format, known)}: choose from {', '.join(known)}")
    path = Path(out)
    if format not in GRAPHS:
        set_ones = {
            "preprocessing": preprocessing,
            "as_images": as_images,
            "size": size,
            "frames": frames,
            "opset": opset,
        }
        _refuse_graph_options(format, {**set_ones, "output": output != "patch", "dynamic": dynamic != "auto"})
    check_place(path, format not in GRAPHS, overwrite)
    if isinstance(model, str | Path) and path.exists() and Path(model).exists() and path.samefile(model):
        raise ConfigError(f"'{path}' is the model itself: name another --out")
    opened = load(model, which=which) if isinstance(model, str | Path) else model
    if format not in GRAPHS:
        return export_directory(opened, path, format, lambda done: render_export_card(opened, done))
    licence = licence_of(opened)
    if as_images:
        opened = opened.seen(ClipOptions(as_images=True))
    plan = plan_input(opened, preprocessing=preprocessing, dynamic=dynamic, size=size, frames=frames)
    graph = build_graph(opened, output, preprocessing)
    about = describe(opened, plan, output, licence)
    return _export_graph(_on_cpu(graph), plan, path, format, OUTPUT_NAMES[output], about, opset)


def _refuse_graph_options(format: str, given: Mapping[str, object]) -> None:
    """Raise ConfigError for the first setting that a directory does not have."""
    for name, value in given.items():
        if value:
            option = "--with-preprocessing" if name == "preprocessing" else f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} is for onnx and pt2: a {format} directory holds the network as it is")


def _export_graph(
    graph: ExportGraph,
    plan: InputPlan,
    path: Path,
    format: Format,
    output: str,
    about: Mapping[str, str],
    opset: int | None,
) -> Exported:
    """ONNX or ``.pt2``."""
    with frozen(graph), place_for(path, graph) as place:
        program = capture(graph, plan)
        if format == "onnx":
            write_onnx(place, program, plan, output, about, opset)
        else:
            write_pt2(place, program, about)
        del program
        written: Run = open_onnx(place) if format == "onnx" else open_pt2(place)
        reader = "ONNX Runtime" if format == "onnx" else "torch.export"
        checks = check_export(written, graph, (plan.draw(shape) for shape in plan.checks()), reader)
        given = _shape(graph, plan)
    error = max(check.error for check in checks)
    shown = f"{output} {given} for {_one_input(plan)}"
    return Exported(path, format, error, plan.describe(), shown, files_at(path), checks, plan.notes)


def _one_input(plan: InputPlan) -> str:
    """Such as ``one clip of 16 frames of 224×224 px``."""
    clip = "image of" if plan.frames is None else f"clip of {plan.frames} frames of"
    return f"one {clip} {plan.size[0]}×{plan.size[1]} px"


def _shape(graph: ExportGraph, plan: InputPlan) -> tuple[int, ...]:
    """Of the output for one input of the planned size."""
    with torch.no_grad():
        return tuple(graph(plan.draw(plan.shape(1))).shape)


def _on_cpu(graph: ExportGraph) -> ExportGraph:
    """The graph, or a copy of it where it computes elsewhere: a file should not remember a device."""
    devices = {tensor.device.type for tensor in graph.parameters()}
    return graph if devices <= {"cpu"} else copy.deepcopy(graph).cpu()


def describe(model: AnyModel, plan: InputPlan, output: str, licence: str | None) -> Mapping[str, str]:
    """What travels inside a graph's file: origin, licence, preprocessing."""
    normalise = model.normalise
    about = {
        "openjepa": __version__,
        "model": model.name,
        "licence": licence or "unknown",
        "input": plan.describe(),
        "output": output,
        "size": "×".join(map(str, plan.size)),
        "normalised_inside": str(plan.preprocessing).lower(),
    }
    for name in ("mean", "std"):
        value = getattr(normalise, name, None)
        if isinstance(value, Tensor):
            about[name] = ", ".join(f"{float(number):.6g}" for number in value.flatten())
    return about
