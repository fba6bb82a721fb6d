"""The doctor's look at a run: what is wrong, by which numbers, and what to change. Needs no labels.

*Symptoms* come from ``metrics.jsonl`` and decide whether the run is sick. *Causes* come from the recipe; they explain
symptoms and say what to change, and are mentioned as risks where a run is still well. A run counts as sick when the
effective rank of its features is under a tenth of the width, or when its features tell images apart worse than those it
started from: ``benchmarks/doctor.py`` makes such runs, measures both with labels, and counts how often this is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from openjepa.config import Recipe
from openjepa.experiments.causes import Cause, causes_of
from openjepa.training import read_rows, read_run
from openjepa.training.run import METRICS
from openjepa.visualize.metrics import dig, finite

Row = Mapping[str, Any]
Word = Literal["sick", "healthy", "too early", "not measured"]


@dataclass(frozen=True)
class Limits:
    """Where a number becomes a symptom. Set on the calibration runs of ``benchmarks/doctor.py``, and nowhere else.

    rank_share: effective rank over the width; a tenth is the definition of sick. fallen_rank: rank over its own start.
    fallen_lidar: the same of LiDAR. cheat: loss over the best cheat's, in two rows running. easy: loss over the best
    cheat's below which the task asks for no understanding. unmoved: relative change of all measures below which nothing
    was learned yet. same: effective rank below which all images look alike. spikes: gradient norm over its median.
    skipped: share of updates that were not finite. early: share of the run without a verdict. samples: fewest panel images.
    """

    rank_share: float = 0.10
    fallen_rank: float = 0.6
    fallen_lidar: float = 0.75
    cheat: float = 0.99
    easy: float = 0.15
    unmoved: float = 0.02
    same: float = 1.2
    spikes: float = 20.0
    skipped: float = 0.05
    early: float = 0.10
    samples: int = 16


DEFAULT = Limits()


@dataclass(frozen=True)
class Finding:
    """One thing the doctor saw. sick: whether it alone makes the run sick. evidence: the numbers it rests on."""

    name: str
    sick: bool
    sentence: str
    evidence: Mapping[str, float]


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor says of a run. verdict: sick, healthy, too early or not measured. findings: symptoms, gravest first.

    causes: what in the recipe explains them (in a sick run), or may lead there (in a healthy one), each with its advice.
    """

    verdict: Word
    findings: tuple[Finding, ...]
    causes: tuple[Cause, ...]
    step: int
    total: int

    def lines(self) -> list[str]:
        """The diagnosis as sentences, for a terminal."""
        progress = f"after {self.step:,} of {self.total:,} steps" if self.total else f"after {self.step:,} steps"
        said = [f"{self.verdict} ({progress})"]
        for finding in self.findings:
            numbers = ", ".join(f"{key} {value:.4g}" for key, value in finding.evidence.items())
            said.append(f"  {'✗' if finding.sick else '·'} {finding.sentence} [{numbers}]")
        if self.causes:
            said += ["", "what to change:" if self.verdict == "sick" else "what to keep an eye on:"]
            said += [f"  → {cause.sentence}: {cause.advice}" for cause in self.causes]
        return said

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; a number that is not finite is null."""
        findings = [
            {**vars(f), "evidence": {k: v if math.isfinite(v) else None for k, v in f.evidence.items()}}
            for f in self.findings
        ]
        return {
            "verdict": self.verdict,
            "step": self.step,
            "total": self.total,
            "findings": findings,
            "causes": [vars(cause) for cause in self.causes],
        }


def diagnose_run(path: str | Path, limits: Limits = DEFAULT) -> Diagnosis:
    """Diagnose a run directory, also one that is being written. Raises RunError when there is none."""
    info = read_run(path)
    return diagnose(read_rows(info.path / METRICS), info.recipe, limits)


def diagnose(rows: Sequence[Row], recipe: Recipe, limits: Limits = DEFAULT) -> Diagnosis:
    """Diagnose rows of ``metrics.jsonl`` (oldest first). Probes in them are not looked at."""
    judged = [row for row in rows if row.get("health")]
    if not judged:
        return Diagnosis("not measured", (), (), 0, 0)
    course = Course(judged, limits)
    last = judged[-1]
    total = int(last["health"].get("total_steps") or 0)
    found = [finding for look in SYMPTOMS if (finding := look(course)) is not None]
    found = [f for f in found if f.name == "identical images"] or sorted(found, key=lambda finding: not finding.sick)
    sick = any(finding.sick for finding in found)
    if course.samples < limits.samples:
        verdict: Word = "not measured"
    elif course.early and not any(f.name in ("not finite", "all alike", "identical images") for f in found):
        verdict = "too early"
    else:
        verdict = "sick" if sick else "healthy"
    causes = causes_of(recipe, {finding.name for finding in found}, sick=verdict == "sick")
    return Diagnosis(verdict, tuple(found), tuple(causes), int(last["step"]), total)


class Course:
    """The judged rows of a run and the questions symptoms ask of them."""

    def __init__(self, rows: Sequence[Row], limits: Limits) -> None:
        self.rows, self.limits = rows, limits
        self.first, self.last = rows[0], rows[-1]
        self.samples = int(self.last["health"].get("samples") or 0)

    @property
    def early(self) -> bool:
        """Whether too little of the run is done to judge it."""
        health = self.last["health"]
        share = self.limits.early * float(health.get("total_steps") or 0)
        return self.last["step"] <= max(float(health.get("warmup_steps") or 0), share)

    def now(self, key: str) -> float:
        """Newest finite value under ``health.key``; NaN where no row has one."""
        return next(
            (v for row in reversed(self.rows) if (v := finite(dig(row, f"health.{key}"))) is not None), math.nan
        )

    def start(self, key: str) -> float:
        """Value under ``health.key`` before the first step; NaN where it was not measured."""
        value = finite(dig(self.first, f"health.{key}")) if self.first["step"] == 0 else None
        return math.nan if value is None else value

    def against_cheats(self, row: Row) -> float:
        """Loss on the panel over the best cheat's; NaN where there are no cheats."""
        loss = finite(dig(row, "health.loss_on_panel"))
        cheats = [v for v in map(finite, (dig(row, "health.cheats") or {}).values()) if v is not None]
        return loss / max(min(cheats), 1e-12) if loss is not None and cheats else math.nan


def _not_finite(course: Course) -> Finding | None:
    loss = finite(course.last.get("loss"))
    skipped = float(course.last.get("skipped_updates") or 0) / max(course.last["step"], 1)
    if course.last["step"] > 0 and (loss is None or skipped > course.limits.skipped):
        return Finding("not finite", True, "the loss or the gradients are not finite", {"share skipped": skipped})
    return None


def _all_alike(course: Course) -> Finding | None:
    rank, start = course.now("rankme"), course.start("rankme")
    if not rank < course.limits.same:
        return None
    if start < course.limits.same:
        return Finding(
            "identical images", True,
            "all images looked alike before the first step: they are identical, blank, or read wrongly",
            {"effective rank at the start": start, "deviation at the start": course.start("feature_std")},
        )  # fmt: skip
    return Finding("all alike", True, "all images have the same features: complete collapse", {"effective rank": rank})


def _low_rank(course: Course) -> Finding | None:
    width, rank = course.now("width"), course.now("rankme")
    most = min(width, course.samples)
    if course.limits.same <= rank < course.limits.rank_share * most:
        return Finding(
            "low rank", True,
            f"features use {rank:.1f} of {most:.0f} directions: under {100 * course.limits.rank_share:.0f} %",
            {"effective rank": rank, "at the start": course.start("rankme"), "alpha-ReQ": course.now("alpha")},
        )  # fmt: skip
    return None


def _fallen_rank(course: Course) -> Finding | None:
    rank, start = course.now("rankme"), course.start("rankme")
    if rank < course.limits.fallen_rank * start:
        return Finding(
            "fallen rank", True, f"features have lost {100 * (1 - rank / start):.0f} % of the rank they started with",
            {"effective rank": rank, "at the start": start},
        )  # fmt: skip
    return None


def _fallen_lidar(course: Course) -> Finding | None:
    now, start = course.now("lidar"), course.start("lidar")
    if now < course.limits.fallen_lidar * start:
        return Finding(
            "fallen LiDAR", True, "fewer directions tell images apart than before training",
            {"LiDAR": now, "at the start": start},
        )  # fmt: skip
    return None


def _cheated(course: Course) -> Finding | None:
    recent = [course.against_cheats(row) for row in course.rows[-2:]]
    if len(recent) < 2 or not all(ratio > course.limits.cheat for ratio in recent):
        return None
    cheats = dig(course.last, "health.cheats") or {}
    losses = {name: value for name, raw in cheats.items() if (value := finite(raw)) is not None}
    best = min(losses, key=losses.__getitem__)
    # With a rank above the start's it is a sign, not an illness: something else than the prediction taught the encoder.
    lost = not _still(course) and not course.now("rankme") > course.start("rankme")
    return Finding(
        "no better than a cheat", lost,
        f"predictions are no better than the cheat '{best.replace('_', ' ')}'",
        {"loss over the cheat's": recent[-1], "loss": course.now("loss_on_panel")},
    )  # fmt: skip


def _easy(course: Course) -> Finding | None:
    ratio = course.against_cheats(course.last)
    if ratio < course.limits.easy:
        return Finding(
            "too easy", True, "the task is solved almost perfectly: what is to be predicted can be seen",
            {"loss over the best cheat's": ratio},
        )  # fmt: skip
    return None


def _still(course: Course) -> bool:
    keys = ("rankme", "feature_std", "mean_cosine")
    changes = [abs(course.now(key) / course.start(key) - 1) for key in keys if course.start(key)]
    return bool(changes) and all(change < course.limits.unmoved for change in changes)


def _unmoved(course: Course) -> Finding | None:
    if course.last["step"] > 0 and _still(course):
        return Finding(
            "has not moved", False, "features are still those of the start: nothing was learned, and nothing lost",
            {"effective rank": course.now("rankme"), "at the start": course.start("rankme")},
        )  # fmt: skip
    return None


def _spikes(course: Course) -> Finding | None:
    norms = sorted(v for row in course.rows if (v := finite(dig(row, "grad_norm.total"))) is not None)
    if len(norms) >= 4 and norms[-1] > course.limits.spikes * norms[len(norms) // 2]:
        return Finding(
            "gradient spikes",
            False,
            "the gradient norm jumped",
            {"largest": norms[-1], "median": norms[len(norms) // 2]},
        )
    return None


def _late_blocks(course: Course) -> Finding | None:
    ranks = dig(next((r for r in reversed(course.rows) if dig(r, "health.layers")), {}), "health.layers.rankme") or []
    known = [v for v in map(finite, ranks) if v is not None]
    if len(known) >= 2 and known[-1] < 0.5 * max(known):
        return Finding(
            "rank lost on the way", False, "late blocks hold half the rank of earlier ones or less",
            {"last block": known[-1], "best block": max(known)},
        )  # fmt: skip
    return None


SYMPTOMS: tuple[Callable[[Course], Finding | None], ...] = (
    _not_finite, _all_alike, _low_rank, _fallen_rank, _fallen_lidar, _cheated, _easy, _unmoved, _spikes, _late_blocks,
)  # fmt: skip
