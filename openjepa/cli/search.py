"""``openjepa search``: what is most like an image, a clip or an item, and what is there twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:  # torch is imported when the command runs, not for --help
    from openjepa.searching import Duplicates, Hits

app = typer.Typer(add_completion=False, rich_markup_mode=None)
_LONG = 20_000  # items from which a comparison says how far it is
_SHOWN = 20  # groups of duplicates listed; the table has all


@app.command()
def search(
    index: Annotated[str, typer.Argument(help="features that 'openjepa embed' wrote")],
    query: Annotated[
        str | None, typer.Argument(help="id or path of an item, or any image or clip", show_default=False)
    ] = None,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="list near duplicates; no QUERY")] = False,
    threshold: Annotated[
        float | None, typer.Option(help="cosine from which two items are near duplicates; by default 0.99")
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="answers")] = 10,
    where: Annotated[
        list[str] | None, typer.Option("--where", "-w", help="label=cat, path~=holiday, start>=30; repeat for more")
    ] = None,
    at: Annotated[float | None, typer.Option(help="seconds into a video: which window asks")] = None,
    moments: Annotated[bool, typer.Option("--moments", help="join neighbouring windows of a video")] = False,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="what QUERY is embedded with; by default what made INDEX")
    ] = None,
    probe: Annotated[Path | None, typer.Option(help="the probe that made an index of attentive tokens")] = None,
    approximate: Annotated[
        bool, typer.Option("--approximate/--exact", help="approximate answers from 20,000 rows on, or exact ones")
    ] = True,
    centre: Annotated[bool, typer.Option(help="compare features minus their mean, or as they are")] = True,
    keep: Annotated[
        Path | None, typer.Option(help="folder for the working files of a large index; by default INDEX.search")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="contact sheet, .html; of --duplicates also a table, .csv", show_default=False
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="also write the answers to this file")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps: where QUERY is embedded")] = "auto",
) -> None:
    """Find what is most like QUERY in INDEX, moments within long videos, or near duplicates."""
    from rich.console import Console

    from openjepa import finding
    from openjepa.searching import THRESHOLD, write_duplicates, write_sheet

    _check(query, duplicates, threshold, at, moments, json)
    console, news = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)

    def say(sentence: str) -> None:
        news.print(sentence, markup=False)

    opened = finding.open_index(index, approximate=approximate, centre=centre, keep=keep, say=say)
    written: list[Path] = []
    if duplicates:
        least = THRESHOLD if threshold is None else threshold
        found = finding.find_duplicates(opened, threshold=least, where=where or (), on_progress=_tenths(say))
        lines = _duplicate_lines(found)
        written += write_duplicates(found, out) if out is not None else ()
    else:
        question = {"k": k, "where": where or (), "at": at, "moments": moments, "model": model}
        hits = finding.search(opened, query, probe=probe, device=device, **question)  # type: ignore[arg-type]
        lines = _hit_lines(hits)
        written += [write_sheet(hits, out)] if out is not None else []
        written += [_write_json(json, hits)] if json is not None else []
    for line in lines:
        console.print(line, markup=False)
    for path in written:
        console.print(f"wrote {path}", markup=False)


def _tenths(say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Say how far a long comparison is, ten times; short ones say nothing."""
    said = 0

    def on_progress(done: int, total: int) -> None:
        nonlocal said
        if total >= _LONG and 10 * done // total > said:
            said = 10 * done // total
            say(f"compared {done:,} of {total:,} items")

    return on_progress


def _check(
    query: str | None, duplicates: bool, threshold: float | None, at: float | None, moments: bool, json: Path | None
) -> None:
    """Refuse what does not go together, before anything is read."""
    from openjepa.errors import ConfigError

    if duplicates and query is not None:
        raise ConfigError(f"--duplicates compares all items with each other: leave '{query}' out")
    if duplicates and (at is not None or moments or json is not None):
        raise ConfigError(
            "--duplicates goes with --threshold, --where and --out; --at, --moments and --json are of a QUERY"
        )
    if not duplicates and query is None:
        raise ConfigError("no QUERY: give an id or path, or --duplicates")
    if not duplicates and threshold is not None:
        raise ConfigError("--threshold is of --duplicates")


def _hit_lines(hits: Hits) -> list[str]:
    """One line per answer: rank, cosine, label, times, id."""
    from openjepa.searching import seconds

    width = max((len(hit.label) for hit in hits.hits), default=0)
    lines = []
    for hit in hits.hits:
        span = seconds(hit.start, hit.end)
        parts = [f"{hit.rank:>4}", f"{hit.similarity:.4f}", *([hit.label.ljust(width)] if width else [])]
        lines.append("  ".join([*parts, *([span] if span else []), hit.id]))
    if not lines:
        lines = ["nothing but the query itself is in the index"]
    return [*lines, f"{hits.method}; {1000 * hits.seconds:.1f} ms"]


def _duplicate_lines(found: Duplicates) -> list[str]:
    """The largest groups, then the sum."""
    table, lines = found.index.table, []
    for group in found.groups[:_SHOWN]:
        others = zip(group.rows[1:], group.similarity[1:], strict=True)
        named = ", ".join(f"{table.ids[row]} ({value:.4f})" for row, value in list(others)[:5])
        more = f", … {len(group.rows) - 6:,} more" if len(group.rows) > 6 else ""
        lines.append(f"{table.ids[group.rows[0]]} = {named}{more}")
    if len(found.groups) > _SHOWN:
        lines.append(f"… {len(found.groups) - _SHOWN:,} more groups (--out FILE.html writes all)")
    total = f"{found.extra:,} of {found.searched:,} items repeat another, in {len(found.groups):,} groups"
    return [*lines, f"{total}, at cosine {found.threshold:g}; {found.method}"]


def _write_json(path: Path, hits: Hits) -> Path:
    """The answers as JSON. Raises RunError when the file cannot be written."""
    import json

    from openjepa.visualize.output import write_bytes

    return write_bytes(path, (json.dumps(hits.to_dict(), indent=2, ensure_ascii=False) + "\n").encode("utf-8"))
