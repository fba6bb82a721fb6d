"""Results as text: Markdown for docs, plain words for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openjepa.errors import RunError
from openjepa.experiments.ablate.stats import RULE

NOTHING = "–"
_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))
_AT = {"end": "", "seconds": " at equal seconds", "flops": " at equal FLOPs", "samples": " at equal samples"}


def labels(results: Mapping[str, Any]) -> list[str]:
    """Every score that some arm or baseline has, in the order they were asked."""
    found: dict[str, None] = {}
    for data in results["data"]:
        for row in (*data["arms"], *data["baselines"]):
            found.update(dict.fromkeys(row["scores"]))
    return list(found)


def markdown(results: Mapping[str, Any], *, level: int = 2) -> str:
    """One grid as Markdown: question, verdicts, one table per data set, what is missing."""
    head = "#" * level
    lines = [f"{head} {results['grid']}", "", f"**{results['question']}** {_setting(results)}", ""]
    for data in results["data"]:
        lines += [f"{head}# {data['name']}{_images(data)}", "", *_claims(data), *_arm_table(results, data), ""]
    return "\n".join(lines).rstrip() + "\n"


def _setting(results: Mapping[str, Any]) -> str:
    changes = f" with {', '.join(f'`{o}`' for o in results['overrides'])}" if results["overrides"] else ""
    seeds = ", ".join(map(str, results["seeds"]))
    return f"Base `{results['base']}`{changes}; {results['budget']}; seeds {seeds}."


def _images(data: Mapping[str, Any]) -> str:
    counts = data.get("images")
    return f" ({counts['train']:,} images to fit on, {counts['val']:,} to judge on)" if counts else ""


def _claims(data: Mapping[str, Any]) -> list[str]:
    rows = [claim_cells(c) for c in data["comparisons"]]
    if not rows:
        return []
    head = ["claim", "comparison", "difference (95 %)", "effect d", "seeds", "verdict"]
    return [*_table(head, [[r[0], r[1], r[2], r[3], r[4], f"**{r[5]}**"] for r in rows], right=(2, 3, 4)), ""]


def claim_cells(comparison: Mapping[str, Any]) -> list[str]:
    """Claim, arms, difference with interval, effect, number of seeds, verdict."""
    found = comparison["difference"]
    by = f"{comparison['metric']}{_AT[comparison['at']]}"
    other = f" ({comparison['against']})" if comparison["against"] else ""
    arms = f"{comparison['better']} > {comparison['worse']}{other}, {by}"
    source = f" ({comparison['source']})" if comparison["source"] else ""
    effect = NOTHING if comparison["effect"] is None else f"{comparison['effect']:+.1f}"
    difference = NOTHING if found is None else signed(found)
    return [
        f"{comparison['claim']}{source}",
        arms,
        difference,
        effect,
        str(len(comparison["seeds"])),
        comparison["word"],
    ]


def signed(found: Mapping[str, Any]) -> str:
    """``+2.1 [+0.4, +3.8]``."""
    if found["low"] is None:
        return f"{found['mean']:+.1f}"
    return f"{found['mean']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]"


def arm_cells(results: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: every arm with its scores and cost, then the baselines, then which seeds are missing."""
    names = labels(results)
    head = ["arm", *names, "rank", "images", "seconds", "FLOPs", "seeds"]
    rows = []
    for arm in data["arms"]:
        cost = arm["cost"]
        seeds = max((score["n"] for score in arm["scores"].values()), default=0)
        missing = f" ({len(arm['missing'])} missing)" if arm["missing"] else ""
        rows.append([
            arm["name"], *(score_text(arm["scores"].get(name)) for name in names), _number(arm["rankme"]),
            _count(cost["samples"]), _count(cost["seconds"]), big(cost["flops"]), f"{seeds}{missing}",
        ])  # fmt: skip
    several = sum(b["name"] != "raw pixels" for b in data["baselines"]) > 1
    for base in data["baselines"]:
        name = (
            f"{base['name']} of {', '.join(base['arms'])}" if several and base["name"] != "raw pixels" else base["name"]
        )
        scores = [score_text(base["scores"].get(n)) for n in names]
        seeds = max((score["n"] for score in base["scores"].values()), default=0)
        rows.append([name, *scores, NOTHING, "0", NOTHING, NOTHING, str(seeds)])
    return head, rows


def _arm_table(results: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    head, rows = arm_cells(results, data)
    lines = _table(head, rows, right=tuple(range(1, len(head))))
    return [*lines, "", *(f"- {text}" for text in missing(data))] if missing(data) else lines


def missing(data: Mapping[str, Any]) -> list[str]:
    """What was not run or failed, and what could not be compared, a line each, with the reason."""
    runs = [f"{arm['name']}, seed {seed}: {reason}" for arm in data["arms"] for seed, reason in arm["missing"].items()]
    return runs + [f"{c['claim']}: {c['why']}" for c in data["comparisons"] if c["difference"] is None]


def score_text(score: Mapping[str, Any] | None) -> str:
    """``38.2 ± 1.1``: mean and half of its 95 % t-interval."""
    if score is None:
        return NOTHING
    if score["low"] is None:
        return f"{score['mean']:.1f}"
    return f"{score['mean']:.1f} ± {(score['high'] - score['low']) / 2:.1f}"


def big(value: float | None) -> str:
    """``14.2 T``."""
    if value is None:
        return NOTHING
    return next((f"{value / size:.3g} {unit}" for size, unit in _UNITS if value >= size), f"{value:.3g}")


def _count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    rule = ["---:" if i in right else "---" for i in range(len(head))]
    cells = [head, rule, *rows]
    return [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in cells]


def render(directory: str | Path, *, level: int = 2) -> str:
    """Markdown of every ``results.json`` below a directory: first all verdicts in one table, then each grid.

    Raises:
        RunError: there is no result, or a file is not one.
    """
    root = Path(directory)
    files = [root] if root.is_file() else sorted(root.rglob("results.json"))
    if not files:
        raise RunError(f"'{directory}' holds no results.json: openjepa ablate GRID --out {directory} writes them")
    found = [_load(path) for path in files]
    rows = [
        [results["grid"], data["name"], *claim_cells(comparison)]
        for results in found for data in results["data"] for comparison in data["comparisons"]
    ]  # fmt: skip
    head = ["grid", "data", "claim", "comparison", "difference (95 %)", "effect d", "seeds", "verdict"]
    summary = _table(head, rows, right=(4, 5, 6)) if rows else []
    lead = [f"Rule: {RULE}. Differences and scores in per cent points; ± is half of a 95 % t-interval over seeds.", ""]
    return "\n".join([*lead, *summary, "", *(markdown(results, level=level) for results in found)]).rstrip() + "\n"


def _load(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if "data" in found and "grid" in found:
            return dict(found)
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"'{path}' cannot be read as results of an ablation: {error}") from error
    raise RunError(f"'{path}' holds no results of an ablation")
