"""Attentive and mean-pooled probes on frozen patch tokens: a grid of learning rate × weight decay, all trained together.

Every head of the grid sees the same batches, as in the published V-JEPA 2 probes (official.md §7.3). A mean-pooled head is
trained by the very same function, so that the two differ in the pooling alone.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjepa.errors import ConfigError
from openjepa.evaluation.choice import HELD_OUT, Outcome, at_edge, best, hold_out
from openjepa.evaluation.heads import BN_EPS, OnEpoch, check_grid, cosine, multiplies_bf16, spans
from openjepa.evaluation.labels import score_of
from openjepa.evaluation.linear_grid import grid_from, with_grid
from openjepa.evaluation.request import Request
from openjepa.evaluation.score import Score
from openjepa.evaluation.tokens import MEMORY_BYTES, TokenData, TokenSides, open_tokens
from openjepa.models.attentive import AttentiveClassifier, Form, classify_together
from openjepa.optim import decays

log = logging.getLogger(__name__)

NAME, FOUR, MEAN = "attentive", "attentive-4", "mean-pool-grid"
Loss = Literal["cross_entropy", "focal"]
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


@dataclass(frozen=True)
class ProbeGrid:
    """How a grid of token probes is trained.

    pooling: ``attentive`` or ``mean``. blocks: 1 (cross-attention alone, V-JEPA) or more (V-JEPA 2 used 4: 3 of
    self-attention before it). heads: of attention; None: width/64, at least 1. form, complete_block: as in
    :class:`openjepa.models.attentive.AttentivePooler`. lrs, weight_decays: all pairs; AdamW, cosine to 0, no warm-up;
    norms and biases do not decay; the rates reach from those attentive probes want to those a mean-pooled head
    wants. clip: largest gradient norm of one probe (V-JEPA 1 used 1). refit: train the grid
    again on all of train after the choice. precision: ``auto`` is bf16 where the hardware multiplies it. loss:
    cross-entropy, or the sigmoid focal loss of the published anticipation probes.
    """

    pooling: Literal["attentive", "mean"] = "attentive"
    blocks: int = 1
    heads: int | None = None
    form: Form = "vjepa2"
    complete_block: bool = True
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    weight_decays: tuple[float, ...] = (0.01, 0.1)
    epochs: int = 20
    batch_size: int = 256
    clip: float | None = None
    refit: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    loss: Loss = "cross_entropy"

    def __post_init__(self) -> None:
        check_grid(self.lrs, self.weight_decays, self.epochs, self.batch_size)
        if self.blocks < 1 or (self.clip is not None and not self.clip > 0):
            raise ConfigError(f"a probe needs blocks >= 1 and clip above 0 (or none), got {self.blocks}, {self.clip}")
        for name, value, choices in (
            ("pooling", self.pooling, ("attentive", "mean")),
            ("form", self.form, ("vjepa", "vjepa2")),
            ("precision", self.precision, ("auto", "fp32", "bf16")),
            ("loss", self.loss, ("cross_entropy", "focal")),
        ):
            if value not in choices:
                raise ConfigError(f"{name}='{value}' is not one of {', '.join(choices)}")

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """(learning rate, weight decay) of each probe, in order."""
        return [(lr, decay) for lr in self.lrs for decay in self.weight_decays]

    @property
    def name(self) -> str:
        """The evaluator's name: ``mean-pool-grid``, ``attentive`` (one block) or ``attentive-N``."""
        if self.pooling == "mean":
            return MEAN
        return NAME if self.blocks == 1 else f"{NAME}-{self.blocks}"

    def attention_heads(self, dim: int) -> int:
        """Heads for tokens of width ``dim``: as asked, or the divisor of the width nearest to width/64."""
        if self.heads is not None:
            return self.heads
        return min((h for h in range(1, dim + 1) if dim % h == 0), key=lambda h: (abs(h - dim / 64), h))

    def build(self, dim: int, classes: int) -> nn.Module:
        """One probe for tokens ``(B, T, dim)``."""
        if self.pooling == "mean":
            return MeanClassifier(dim, classes)
        return AttentiveClassifier(
            dim,
            self.attention_heads(dim),
            classes,
            depth=self.blocks,
            form=self.form,
            complete_block=self.complete_block,
        )


class MeanClassifier(nn.Module):
    """Tokens averaged, batch-normalised without parameters, one linear layer: the head attentive pooling is held against."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, affine=False, eps=BN_EPS)
        self.linear = nn.Linear(dim, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, T, D)`` → logits ``(B, classes)``."""
        return self.linear(self.norm(tokens.float().mean(1)))


def token_probe(
    sides: TokenSides,
    grid: ProbeGrid | None = None,
    *,
    seed: int = 0,
    subject: str = "encoder",
    device: str | torch.device = "cpu",
    protocol: dict[str, object] | None = None,
    on_epoch: OnEpoch | None = None,
    recall: int | None = None,
) -> Score:
    """Train the grid on four fifths of train, choose on the held-out fifth, score the chosen probe on val.

    ``grid_max`` is the best probe of the grid on val, which published numbers report (official.md §7.3): optimistic.

    Args:
        sides: see :func:`openjepa.evaluation.tokens.from_features` and ``open_tokens``.
        protocol: how the tokens were made, copied into the score. recall: also class-mean recall at so many.

    Raises:
        DataError: none can be held out. TrainingError: every probe diverged.
    """
    grid = grid or ProbeGrid()
    data, classes = sides.labelled, len(sides.labelled.classes)
    fitted, held = hold_out(data.y, seed)
    probes = train_probes(sides.train, fitted, classes, grid, seed=seed, device=device, on_epoch=on_epoch)
    said, y = answers(probes, sides.train, held, grid.batch_size, grid.loss)
    tried = [Outcome.of(logits, y) for logits in said]
    chosen = best(tried, grid.pairs)
    if grid.refit:
        every = torch.arange(len(data.y))
        probes = train_probes(sides.train, every, classes, grid, seed=seed, device=device, on_epoch=on_epoch)
    said, y = answers(probes, sides.val, torch.arange(len(data.val_y)), grid.batch_size, grid.loss)
    on_val = [Outcome.of(logits, y) for logits in said]
    edge = at_edge(grid.pairs[chosen], grid.lrs)
    if edge is not None:
        log.warning("%s chose the %s learning rate of its grid (%g): widen it", grid.name, edge, grid.pairs[chosen][0])
    about = {
        **(protocol or {}),
        **_protocol(grid, sides, sides.train.shape[1], tried[chosen], grid.pairs[chosen], device),
    }
    data = replace(data, val_y=y)
    score = score_of(grid.name, said[chosen].argmax(1), data, protocol=about, seed=seed, subject=subject)
    if recall:
        score = replace(score, extra={f"class-mean recall@{recall}": class_mean_recall(said[chosen], y, recall)})
    return with_grid(score, [outcome.accuracy for outcome in on_val], sum(o.diverged for o in tried))


def class_mean_recall(logits: Tensor, y: Tensor, k: int) -> float:
    """Share of samples whose class is among the k likeliest, ``(n, K)`` logits, averaged over the classes that occur."""
    top = logits.topk(min(k, logits.shape[1]), dim=1).indices
    hit = (top == y[:, None]).any(1).double()
    return float(torch.stack([hit[y == label].mean() for label in torch.unique(y)]).mean())


def train_probes(
    data: TokenData,
    index: Tensor,
    classes: int,
    grid: ProbeGrid,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    on_epoch: OnEpoch | None = None,
) -> list[nn.Module]:
    """Train one probe per pair of ``grid`` on the samples ``index``; all start from the same weights, drawn by ``seed``."""
    device = torch.device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = grid.build(data.shape[1], classes)
    probes = [copy.deepcopy(first).to(device).train() for _ in grid.pairs]
    optimizer = torch.optim.AdamW(_groups(probes, grid.pairs), fused=device.type in ("cpu", "cuda"))
    cuts = len(spans(len(index), grid.batch_size))
    size, step, total = -(-len(index) // cuts), 0, grid.epochs * cuts
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(grid.epochs):
        order = index[torch.randperm(len(index), generator=generator)]
        for tokens, y in data.batches(order, size):
            if len(y) < 2:  # a rest of one (or what unreadable files left) has no batch statistics
                continue
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * cosine(min(step, total), total)
            if tokens.ndim == 4:  # views pooled apart: each is a sample, their losses are averaged
                y, tokens = y.repeat_interleave(tokens.shape[1]), tokens.flatten(0, 1)
            with _autocast(grid, device):
                logits = classify(probes, tokens)
            optimizer.zero_grad()
            torch.stack([loss_of(grid.loss, part.float(), y) for part in logits]).sum().backward()
            if grid.clip is not None:
                for probe in probes:
                    nn.utils.clip_grad_norm_(probe.parameters(), grid.clip)
            optimizer.step()
            step += 1
        if on_epoch is not None:
            on_epoch(epoch + 1, grid.epochs)
    return [probe.eval() for probe in probes]


@torch.no_grad()
def answers(
    probes: Sequence[nn.Module], data: TokenData, index: Tensor, batch_size: int, loss: Loss = "cross_entropy"
) -> tuple[list[Tensor], Tensor]:
    """What each probe says of the samples ``index``, ``(n, K)`` logits, and the labels ``(n,)`` of those that were read.

    Of views pooled apart it is the logarithm of their mean probability.
    """
    parts: list[list[Tensor]] = [[] for _ in probes]
    labels = []
    for tokens, y in data.batches(index, batch_size):
        labels.append(y.cpu())
        groups = tokens.shape[1] if tokens.ndim == 4 else 1
        for part, logits in zip(parts, classify(probes, tokens.flatten(0, -3)), strict=True):
            part.append(averaged(logits.float().cpu(), groups, loss))
    return [torch.cat(part) for part in parts], torch.cat(labels)


def averaged(logits: Tensor, groups: int, loss: Loss) -> Tensor:
    """``(n·groups, K)`` logits, one row per view, to ``(n, K)``: the logarithm of the mean probability of the views."""
    if groups == 1:
        return logits
    share = logits.sigmoid() if loss == "focal" else logits.softmax(1)
    return share.unflatten(0, (-1, groups)).mean(1).log()


def loss_of(kind: Loss, logits: Tensor, y: Tensor) -> Tensor:
    """Mean loss of logits ``(n, K)`` and labels ``(n,)``: cross-entropy, or a sigmoid focal loss (1708.02002 eq. 5).

    The focal loss (α .25, γ 2) is the one of the published anticipation probes (official.md §7.4), there summed over the
    classes and the batch; here it is summed over the classes.
    """
    if kind == "cross_entropy":
        return F.cross_entropy(logits, y)
    right = F.one_hot(y, logits.shape[1]).to(logits.dtype)
    p = logits.sigmoid()
    p_true = p * right + (1 - p) * (1 - right)
    weight = (FOCAL_ALPHA * right + (1 - FOCAL_ALPHA) * (1 - right)) * (1 - p_true) ** FOCAL_GAMMA
    return (weight * F.binary_cross_entropy_with_logits(logits, right, reduction="none")).sum(1).mean()


def classify(probes: Sequence[nn.Module], tokens: Tensor) -> list[Tensor]:
    """Logits of each probe; attentive ones share what they can."""
    if all(isinstance(probe, AttentiveClassifier) for probe in probes):
        return classify_together(cast(Sequence[AttentiveClassifier], probes), tokens)
    return [probe(tokens) for probe in probes]


def run(request: Request) -> list[Score]:
    """The evaluator ``attentive``; ``Settings.options["attentive"]`` may set every field of :class:`ProbeGrid`."""
    return _run(request, {}, NAME)


def run_four(request: Request) -> list[Score]:
    """The evaluator ``attentive-4``: four blocks; options of its own on top of those of ``attentive``."""
    return _run(request, {"blocks": 4}, FOUR)


def run_mean(request: Request) -> list[Score]:
    """The evaluator ``mean-pool-grid``: the same grid, training and choice as ``attentive``, on averaged tokens."""
    return _run(request, {"pooling": "mean"}, MEAN)


def _run(request: Request, fixed: dict[str, object], name: str) -> list[Score]:
    chosen = request.settings.options
    options = {**chosen.get(NAME, {}), **fixed, **(chosen.get(name, {}) if name != NAME else {})}
    memory = int(options.pop("memory", MEMORY_BYTES))
    grid = grid_from(ProbeGrid, name, options)
    bench = request.place
    score = token_probe(
        open_tokens(bench, memory),
        grid,
        seed=request.settings.seed,
        on_epoch=request.on_epoch,
        subject=request.subject,
        device=bench.device,
        protocol={"tokens": "patch", "layers": bench.layers, "precision": bench.precision, **bench.clips},
    )
    return [score]


def _groups(probes: Sequence[nn.Module], pairs: Sequence[tuple[float, float]]) -> list[dict[str, object]]:
    """AdamW groups: each probe's own rate and decay; norms and biases without decay."""
    groups: list[dict[str, object]] = []
    for probe, (lr, decay) in zip(probes, pairs, strict=True):
        for wanted in (True, False):
            params = [p for name, p in probe.named_parameters() if decays(name, p) == wanted]
            groups.append({"params": params, "lr": lr, "peak": lr, "weight_decay": decay if wanted else 0.0})
    return [group for group in groups if group["params"]]


def _uses_bf16(grid: ProbeGrid, device: torch.device) -> bool:
    return grid.precision == "bf16" or (grid.precision == "auto" and multiplies_bf16(device))


def _autocast(grid: ProbeGrid, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=_uses_bf16(grid, device))


def _protocol(
    grid: ProbeGrid,
    sides: TokenSides,
    dim: int,
    held: Outcome,
    chosen: tuple[float, float],
    device: str | torch.device,
) -> dict[str, object]:
    attentive = grid.pooling == "attentive"
    return {
        "pooling": f"{grid.form}, {grid.blocks} block{'s' * (grid.blocks > 1)}" if attentive else "mean, batch norm",
        "heads": grid.attention_heads(dim) if attentive else None,
        "optimizer": "adamw",
        "lr": chosen[0],
        "weight_decay": chosen[1],
        "grid": f"{len(grid.lrs)} lr × {len(grid.weight_decays)} wd",
        "epochs": grid.epochs,
        "batch": grid.batch_size,
        "clip": grid.clip,
        "training": "bf16" if _uses_bf16(grid, torch.device(device)) else "fp32",
        "loss": grid.loss if grid.loss != "cross_entropy" else None,
        "streamed": sides.streamed or None,
        "kept": "fp16" if sides.halved else None,
        "chosen_on": f"held-out {HELD_OUT:.0%} of train",
        "held_out_accuracy": held.accuracy,
        "refit": "all of train" if grid.refit else "no",
    }
