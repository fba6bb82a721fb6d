"""The verdict: what the numbers of a run say, in words, with what to try. A pure function of the metrics history.

The loss of a JEPA is no measure of progress: it falls when features collapse and may rise when they get richer. So the
verdict looks at the spread and rank of features and at how the predictor fares against cheats.

Thresholds, and why (first calibration; they are numbers of one place, so that a later one changes only this table):

====================  ======  ==========================================================================================
name                  value   reason
====================  ======  ==========================================================================================
diverged_over_best    3       loss over its lowest value; healthy runs rise by tens of percent when targets get richer
diverged_over_mean    1.5     ... and over predicting the mean target (without cheats: over the loss at the start)
dead_std              0.02    pooled features vary this little against their own start: nothing tells images apart
dead_rank             1.2     effective rank of pooled features; 1 means that all images lie on one line
dead_cosine           0.9999  mean cosine between images; a fresh ViT lies around .97 to .999
low_rank_of_start     0.6     effective rank against the fresh encoder's: the published run at 32 px fell from 9 to 4
low_rank_share        0.03    effective rank over what width and samples allow; 5.8 of 192
cheat_margin          0.99    the predictor must beat a cheat by 1 % before it counts as better
patience              2       panels in a row before a verdict about cheats; 3 before a collapse stops a run
warming               0.10    share of the run (or the learning-rate warm-up, if longer) without judgement of rank
warming_steps         100     ... and at least so many updates: EMA and predictor need some hundred to mean anything
few_samples           16      fewer panel images than this: ranks and deviations are noise, nothing is judged
====================  ======  ==========================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What the history of a run says. ``name`` is one of :data:`NAMES`; ``sentence`` and ``advice`` are for people."""

    name: str
    sentence: str = ""
    advice: str = ""

    def __str__(self) -> str:
        """One line: ``healthy``, or ``partial collapse: …; try …``."""
        line = f"{self.name}: {self.sentence}" if self.sentence else self.name
        return f"{line}; try {self.advice}" if self.advice else line

    @property
    def ill(self) -> bool:
        """Whether somebody should look."""
        return self.name not in ("healthy", "warming up", "not judged")


NAMES = (
    "healthy",
    "warming up",
    "not judged",
    "diverging",
    "collapse",
    "partial collapse",
    "not learning",
    "position only",
    "copying",
)


@dataclass(frozen=True)
class Thresholds:
    """The numbers of the table above."""

    diverged_over_best: float = 3.0
    diverged_over_mean: float = 1.5
    dead_std: float = 0.02
    dead_rank: float = 1.2
    dead_cosine: float = 0.9999
    low_rank_of_start: float = 0.6
    low_rank_share: float = 0.03
    cheat_margin: float = 0.99
    patience: int = 2
    stop_after: int = 3
    warming: float = 0.10
    warming_steps: int = 100
    few_samples: int = 16


DEFAULT = Thresholds()

_AGAINST_COLLAPSE = (
    "a lower optim.lr, a target.momentum closer to 1, a larger batch, "
    "or a variance or sigreg term (objective.regularisers)"
)
_AGAINST_DIVERGENCE = "a lower optim.lr, a longer optim.warmup, or optim.clip=1.0"
_CHEATS = {
    "mean_target": (
        "not learning",
        "the predictor is no better than predicting the mean target for every patch",
        "a higher optim.lr, a longer run, or check the data (openjepa visualize masks)",
    ),
    "position_only": (
        "position only",
        "the predictor is no better than the position-only cheat: it knows where a patch is, not what is around it",
        "a longer run, more context (mask.context_scale, context_mode padded), or a variance or sigreg term",
    ),
    "copy_nearest": (
        "copying",
        "the predictor is no better than copying the nearest visible patch",
        "a longer run, or larger target blocks (mask.target_scale)",
    ),
}


def judge(rows: Sequence[Row], limits: Thresholds = DEFAULT) -> Verdict:
    """The verdict after the last of ``rows`` (rows of ``metrics.jsonl``, oldest first, the first one at step 0).

    The first rule that applies wins: diverging, collapse, warming up, partial collapse, cheats, healthy.
    """
    judged = [row for row in rows if row.get("health")]
    if not judged:
        return Verdict("not judged", "nothing has been measured yet")
    last = judged[-1]
    diverging = _diverging(judged, limits)
    if diverging:
        return diverging
    samples = int(last["health"].get("samples", 0))
    if samples < limits.few_samples:
        return Verdict("not judged", f"{samples} samples are too few to measure ranks and deviations")
    collapse = _collapse(judged[0], last, limits)
    if collapse:
        return collapse
    if _warming(last, limits):
        return Verdict("warming up")
    return _partial_collapse(judged[0], last, limits) or _cheated(judged, limits) or Verdict("healthy")


def collapsed_for(rows: Sequence[Row]) -> int:
    """How many of the last panels in a row were judged ``collapse``."""
    count = 0
    for row in reversed(rows):
        if not str(row.get("health", {}).get("verdict", "")).startswith("collapse"):
            break
        count += 1
    return count


def _warming(row: Row, limits: Thresholds) -> bool:
    health = row["health"]
    share = limits.warming * float(health.get("total_steps", 0))
    return row["step"] < max(float(health.get("warmup_steps", 0)), share, limits.warming_steps)


def _diverging(rows: Sequence[Row], limits: Thresholds) -> Verdict | None:
    last = rows[-1]
    if last["step"] == 0 and last["loss"] is None:
        return None  # a method without a loss on the panel has none before its first step
    # The row of step 0 holds the panel's prediction loss alone: no regularisers, so no measure for later losses.
    losses = [_number(row.get("loss")) for row in rows if row["step"] > 0 or row is last]
    if not math.isfinite(losses[-1]):
        return Verdict("diverging", "the loss is not finite", _AGAINST_DIVERGENCE)
    best = min((loss for loss in losses if math.isfinite(loss)), default=math.inf)
    if losses[-1] <= limits.diverged_over_best * best:
        return None
    mean = _cheat(last, "mean_target")
    if math.isfinite(mean):
        worse = _number(last["health"]["loss_on_panel"]) > limits.diverged_over_mean * mean
        than = "predicting the mean target"
    else:  # nothing to compare a prediction with: compare with where training began
        worse, than = losses[-1] > limits.diverged_over_mean * losses[0], "at the start of training"
    if not worse:
        return None
    times = losses[-1] / max(best, 1e-12)
    sentence = f"the loss {losses[-1]:.3g} is {times:.1f} times its best and worse than {than}"
    return Verdict("diverging", sentence, _AGAINST_DIVERGENCE)


def _collapse(first: Row, last: Row, limits: Thresholds) -> Verdict | None:
    now, start = last["health"], first["health"]
    found = ""
    numbers = [_number(now[key]) for key in ("rankme", "feature_std", "mean_cosine", "target_std")]
    if last["step"] == 0 and all(math.isfinite(number) for number in numbers):
        return None  # a fresh encoder has not collapsed, whatever its features look like
    if not all(math.isfinite(number) for number in numbers):
        found = "features are not finite"
    elif now["rankme"] < limits.dead_rank:
        found = f"effective rank {now['rankme']:.1f} of {now['width']}: all images look alike to the target encoder"
    elif now["feature_std"] < limits.dead_std * start["feature_std"]:
        share = now["feature_std"] / max(start["feature_std"], 1e-12)
        found = f"features of different images vary {share:.1%} as much as at the start"
    elif now["mean_cosine"] > limits.dead_cosine > start["mean_cosine"]:
        found = f"mean cosine between images is {now['mean_cosine']:.5f}"
    return Verdict("collapse", found, _AGAINST_COLLAPSE) if found else None


def _partial_collapse(first: Row, last: Row, limits: Thresholds) -> Verdict | None:
    now, start = last["health"], first["health"]
    rank, width = now["rankme"], now["width"]
    where = f"effective rank {rank:.0f} of {width}"
    if first["step"] == 0 and rank < limits.low_rank_of_start * start["rankme"]:
        return Verdict("partial collapse", f"{where}, {start['rankme']:.0f} before training", _AGAINST_COLLAPSE)
    if now["rankme_share"] < limits.low_rank_share:
        return Verdict("partial collapse", where, _AGAINST_COLLAPSE)
    return None


def _cheated(rows: Sequence[Row], limits: Thresholds) -> Verdict | None:
    recent = rows[-limits.patience :]
    if len(recent) < limits.patience or _warming(recent[0], limits):
        return None
    for cheat, (name, sentence, advice) in _CHEATS.items():
        if all(_beats(row, cheat, limits) for row in recent):
            health = rows[-1]["health"]
            numbers = f" (loss {health['loss_on_panel']:.3g} against {health['cheats'][cheat]:.3g})"
            return Verdict(name, sentence + numbers, advice)
    return None


def _beats(row: Row, cheat: str, limits: Thresholds) -> bool:
    """Whether the cheat is as good as the predictor."""
    guess = _cheat(row, cheat)
    return math.isfinite(guess) and _number(row["health"]["loss_on_panel"]) > limits.cheat_margin * guess


def _cheat(row: Row, name: str) -> float:
    """Loss of a cheat on the panel; NaN where the method has none."""
    return _number(row["health"].get("cheats", {}).get(name))


def _number(value: Any) -> float:
    """A float; NaN for what is missing or was written as null."""
    return float("nan") if value is None else float(value)
