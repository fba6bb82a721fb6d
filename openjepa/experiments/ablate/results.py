"""From cells to answers: means with intervals per arm, baselines, and a verdict on every expected comparison."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from openjepa import __version__
from openjepa.errors import nearest
from openjepa.experiments.ablate.cells import PIXELS, RANDOM, Expanded, Place, short_names
from openjepa.experiments.ablate.grid import Expectation
from openjepa.experiments.ablate.stats import RULE, interval, judge
from openjepa.experiments.ablate.store import Store

AMOUNTS = ("samples", "seconds", "flops")


def collect(expanded: Expanded, store: Store) -> dict[str, Any]:
    """Everything about one grid as plain JSON: what ``results.json`` holds, and what tables and plots are made of."""
    grid = expanded.grid
    names = short_names(list(dict.fromkeys(place.data for place in expanded.places)))
    return {
        "grid": grid.name,
        "question": grid.question,
        "version": __version__,
        "rule": RULE,
        "base": grid.base,
        "overrides": list(grid.overrides),
        "budget": _budget(expanded),
        "seeds": list(grid.seeds),
        "evaluation": grid.evaluation.model_dump(mode="json"),
        "arms": {name: arm.model_dump(mode="json") for name, arm in grid.arms.items()},
        "data": [_on_data(expanded, store, name, short) for name, short in names.items()],
    }


def _budget(expanded: Expanded) -> str:
    lengths = dict.fromkeys(
        f"{c.recipe.train.length} × {c.recipe.train.batch_size}" if c.recipe.train.length.unit == "steps"
        else str(c.recipe.train.length)
        for c in expanded.cells.values() if c.kind == "trained"
    )  # fmt: skip
    return ", ".join(lengths)


def _on_data(expanded: Expanded, store: Store, data: str, short: str) -> dict[str, Any]:
    """One data set: arms, baselines, comparisons, and what is missing."""
    places = [place for place in expanded.places if place.data == data]
    found = {key: store.finished(cell) for key, cell in expanded.cells.items()}
    arms = [_arm(arm, [p for p in places if p.arm == arm], expanded, store, found) for arm in expanded.grid.arms]
    return {
        "name": short,
        "path": data,
        "arms": arms,
        "baselines": _baselines(places, found, list(expanded.grid.arms)),
        "comparisons": [_compare(expected, places, found) for expected in expanded.grid.expect],
        "images": _images(found[place.trained] for place in places),
    }


def _images(results: Iterable[Mapping[str, Any] | None]) -> dict[str, int] | None:
    """How many images the scores were fitted and measured on."""
    for result in results:
        for score in (result or {}).get("scores", ()):
            return {"train": score["n_train"], "val": score["n_val"]}
    return None


def _arm(
    name: str, places: Sequence[Place], expanded: Expanded, store: Store, found: Mapping[str, dict[str, Any] | None]
) -> dict[str, Any]:
    """One arm: each score over seeds, its cost, its runs, and the seeds that are missing with the reason."""
    done = {place.seed: result for place in places if (result := found[place.trained]) is not None}
    missing = {
        str(place.seed): store.failure(expanded.cells[place.trained]) or "not run"
        for place in places
        if place.seed not in done
    }
    return {
        "name": name,
        "scores": _scores(done),
        "cost": {key: _mean(result.get(key) for result in done.values()) for key in ("steps", *AMOUNTS)},
        "rankme": _mean(result.get("rankme") for result in done.values()),
        "verdicts": {str(seed): result.get("verdict", "") for seed, result in done.items()},
        "runs": {str(p.seed): f"cells/{expanded.cells[p.trained].run_key}" for p in places if p.seed in done},
        "curves": {str(p.seed): _curve(p, found) for p in places if p.seed in done},
        "missing": missing,
    }


def _scores(done: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Score by label: per seed, and mean with interval."""
    labels = dict.fromkeys(label for result in done.values() for label in result["values"])
    out = {}
    for label in labels:
        by_seed = {seed: result["values"][label] for seed, result in done.items() if label in result["values"]}
        out[label] = {"seeds": {str(s): v for s, v in by_seed.items()}, **asdict(interval(list(by_seed.values())))}
    return out


def _baselines(
    places: Sequence[Place], found: Mapping[str, dict[str, Any] | None], arms: Sequence[str]
) -> list[dict[str, Any]]:
    """The untrained encoder of every architecture (with the arms it belongs to), and raw pixels."""
    groups: dict[tuple[str, ...], list[str]] = {}  # random keys over seeds → arms
    for arm in arms:
        mine = [place for place in places if place.arm == arm]
        groups.setdefault(tuple(place.random for place in mine), []).append(arm)
    out = []
    for keys, members in groups.items():
        done = {place.seed: r for place in places if place.random in keys and (r := found[place.random]) is not None}
        if done:
            out.append({"name": RANDOM, "arms": members, "scores": _scores(done)})
    pixels = {place.pixels: result for place in places if (result := found[place.pixels]) is not None}
    for result in (result for result in pixels.values() if result["values"]):
        out.append({"name": PIXELS, "arms": list(arms), "scores": _scores({int(result["seed"]): result})})
    return out


def _curve(place: Place, found: Mapping[str, dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Scores against what they cost: the untrained encoder, points during training, the end."""
    result, start = found[place.trained], found[place.random]
    assert result is not None
    zero = {"step": 0, **dict.fromkeys(AMOUNTS, 0.0), "values": start["values"]} if start is not None else None
    end = {"step": result["steps"], **{key: result.get(key) for key in AMOUNTS}, "values": result["values"]}
    middle = [point for point in result.get("curve", ()) if point["step"] < result["steps"]]
    return [*([zero] if zero else []), *middle, end]


def _compare(
    expected: Expectation, places: Sequence[Place], found: Mapping[str, dict[str, Any] | None]
) -> dict[str, Any]:
    """The verdict on one comparison, with its claim."""
    sides = {arm: {p.seed: p for p in places if p.arm == arm} for arm in (expected.better, expected.worse)}
    better: dict[int, float] = {}
    worse: dict[int, float] = {}
    for seed, place in sides[expected.better].items():
        other = sides[expected.worse].get(seed)
        if other is None or found[place.trained] is None or found[other.trained] is None:
            continue
        pair = _at(expected, _curve(place, found), _curve(other, found))
        if pair is not None:
            better[seed], worse[seed] = pair
    verdict = judge(better, worse)
    asked = expected.model_dump(mode="json")
    if verdict is None:
        why = _why_not(expected, [found[p.trained] for side in sides.values() for p in side.values()])
        return {**asked, "word": "undecided", "why": why, "difference": None, "effect": None, "seeds": []}
    return {**asked, **asdict(verdict), "paired": [better[seed] - worse[seed] for seed in verdict.seeds]}


def _why_not(expected: Expectation, results: Iterable[Mapping[str, Any] | None]) -> str:
    """Why no seed could be compared: a score that nobody measured, or runs that are missing."""
    known = list(dict.fromkeys(label for result in results if result is not None for label in result["values"]))
    absent = [name for name in (expected.metric, expected.against) if name and known and name not in known]
    if absent:
        return f"no score is called '{absent[0]}'{nearest(absent[0], known)}: there are {', '.join(known)}"
    return "no seed has both"


def _at(
    expected: Expectation, left: Sequence[Mapping[str, Any]], right: Sequence[Mapping[str, Any]]
) -> tuple[float, float] | None:
    """Both scores, at the end or at the largest amount both reached (linear between points)."""
    metric, other = expected.metric, expected.against or expected.metric
    if expected.at == "end":
        a, b = left[-1]["values"].get(metric), right[-1]["values"].get(other)
        return None if a is None or b is None else (a, b)
    if not left[-1].get(expected.at) or not right[-1].get(expected.at):
        return None
    amount = min(left[-1][expected.at], right[-1][expected.at])
    a, b = interpolate(left, expected.at, metric, amount), interpolate(right, expected.at, other, amount)
    return None if a is None or b is None else (a, b)


def interpolate(curve: Sequence[Mapping[str, Any]], axis: str, metric: str, amount: float) -> float | None:
    """A curve's score at ``amount`` of ``axis``, linear between the points around it; None outside."""
    points = [
        (p[axis], p["values"][metric]) for p in curve if p.get(axis) is not None and metric in p.get("values", {})
    ]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= amount <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (amount - x0) / (x1 - x0)
    return None


def _mean(values: Iterable[Any]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
