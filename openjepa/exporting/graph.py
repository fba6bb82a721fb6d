"""The graph that is written to ONNX and .pt2: optional normalisation, the encoder, optional pooling or a classifier."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from openjepa.errors import ConfigError, nearest
from openjepa.exporting.inputs import InputPlan
from openjepa.model import AnyModel
from openjepa.models.attentive import ActionClassifier

Output = Literal["patch", "pooled", "logits"]
OUTPUT_NAMES = {"patch": "tokens", "pooled": "features", "logits": "logits"}
_NOISY = ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir", "torch.fx", "torch._dynamo")


class ExportGraph(nn.Module):
    """``(B, C, H, W)`` or ``(B, C, T, H, W)`` to tokens ``(B, N, D)``, their mean ``(B, D)`` or logits ``(B, classes)``.

    Args:
        encoder: on the CPU. normalise: of uint8 pixels; None: the input is normalised already. head: tokens to logits.
    """

    def __init__(self, encoder: nn.Module, normalise: nn.Module | None, pooled: bool, head: nn.Module | None) -> None:
        super().__init__()
        self.encoder, self.normalise, self.head, self.pooled = encoder, normalise, head, pooled

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        x = pixels if self.normalise is None else self.normalise(pixels)
        encoder: Any = self.encoder
        asked = {"prefix": True} if getattr(self.head, "prefix", False) else {}  # a head that reads the class token
        tokens = encoder.forward_features(x, **asked)
        if self.head is not None:
            return self.head(tokens)
        return tokens.mean(1) if self.pooled else tokens


def build_graph(model: AnyModel, output: Output, preprocessing: bool) -> ExportGraph:
    """The graph of a model; it shares the model's weights.

    Raises:
        ConfigError: an unknown output, or logits of a model without a classifier.
    """
    if output not in get_args(Output):
        raise ConfigError(f"no output '{output}'{nearest(output, get_args(Output))}: patch, pooled or logits")
    probe = getattr(model, "probe", None)
    head = None
    if output == "logits":
        if probe is None:
            raise ConfigError(f"{model.name} came without a classifier: its output is patch or pooled, not logits")
        head = probe.classifier
        if isinstance(head, ActionClassifier):
            raise ConfigError(f"the classifier of {model.name} has several answers, and a graph has one: use patch")
    assert isinstance(model.encoder, nn.Module)
    return ExportGraph(model.encoder, model.normalise if preprocessing else None, output == "pooled", head)


def capture(graph: ExportGraph, plan: InputPlan) -> ExportedProgram:
    """The graph as torch.export sees it, with the axes of ``plan`` that may vary.

    Raises:
        ConfigError: it cannot be captured so; one line with torch's reason.
    """
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(graph, (plan.example(),), dynamic_shapes=(plan.dims(),))
    except Exception as error:  # torch.export raises a dozen kinds, of torch._dynamo, torch.fx and plain Python
        tight = "height" in plan.dynamic or "frames" in plan.dynamic
        advice = ": try --dynamic batch" if tight else ": try --dynamic none" if plan.dynamic else ""
        raise ConfigError(f"torch.export cannot capture this encoder ({first_line(error)}){advice}") from error


@contextlib.contextmanager
def frozen(graph: nn.Module) -> Iterator[None]:
    """Evaluation mode, and every module's own mode again afterwards."""
    modes = {module: module.training for module in graph.modules()}
    graph.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' warnings and progress: they speak to their own authors."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def first_line(error: BaseException) -> str:
    """What an error says first, cut to a readable length, with its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}…"
