"""``openjepa data inspect|verify``: what a folder holds, and whether all of it can be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:  # torch is imported when a command runs, not for --help
    from rich.console import Console

    from openjepa.data.inspection import Inspection

app = typer.Typer(
    help="Look at a folder, list file or built-in before training on it.", add_completion=False, no_args_is_help=True
)

Data = Annotated[str, typer.Argument(metavar="DATA", help="folder, list file, image, or 'scenes'")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]
Channels = Annotated[int, typer.Option(help="channels wanted, as data.channels", min=1)]
_SHOWN = 20


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


@contextmanager
def _progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal's stderr; nothing in a log."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = _console(stderr=True)
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _rows(found: Inspection) -> Iterator[tuple[str, str]]:
    """What to show of an inspection, as (what, value)."""

    def counts(table: dict[str, int]) -> str:
        shown = [f"{name} {count:,}" for name, count in list(table.items())[:_SHOWN]]
        return ", ".join(shown) + (f", … {len(table) - _SHOWN} more" if len(table) > _SHOWN else "")

    yield "data", found.root
    if found.note:
        yield "note", found.note
    yield "images", f"{found.images:,} ({found.bytes / 1e6:,.1f} MB)"
    for name, spread in (("width", found.width), ("height", found.height)):
        if spread:
            yield name, f"{spread.min} to {spread.max}, median {spread.median}"
    for name, table in (("formats", found.formats), ("modes", found.modes), ("channels", found.channels)):
        if table:
            yield name, counts(table)
    yield "classes", "none" if found.classes is None else f"{len(found.classes)}: {counts(found.classes)}"
    if found.ignored:
        yield "other files", counts(found.ignored)
    if found.duplicates:
        extra = sum(len(g) - 1 for g in found.duplicates)
        yield "duplicates", f"{extra:,} files repeat another byte for byte, as {' = '.join(found.duplicates[0][:2])}"
    if found.mismatched:
        name, kind = next(iter(found.mismatched.items()))
        yield "misnamed", f"{len(found.mismatched):,} files, as {name}, which is {kind} (read all the same)"


def _show_bad(console: Console, bad: dict[str, str], what: str) -> None:
    """List bad files or folders, the first few."""
    from rich.text import Text

    for name, reason in list(bad.items())[:_SHOWN]:
        console.print(Text(f"{what}: {name}: {reason}"))
    if len(bad) > _SHOWN:
        console.print(f"{what}: … and {len(bad) - _SHOWN} more (--json or --list shows all)")


@app.command("inspect")
def inspect_command(data: Data, as_json: AsJson = False, channels: Channels = 3) -> None:
    """Count images, sizes, formats, classes, duplicates and unreadable files, from file headers (fast)."""
    from rich.table import Table
    from rich.text import Text

    from openjepa.data.inspection import inspect

    with _progress("reading headers") as on_progress:
        found = inspect(data, channels=channels, on_progress=on_progress)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    console = _console()
    if console.is_terminal:
        table = Table(show_header=False, box=None)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in _rows(found):
            table.add_row(name, Text(value))
        console.print(table)
    else:
        for name, value in _rows(found):
            console.print(Text(f"{name}: {value}"))
    _show_bad(console, found.unreadable, "unreadable folder")
    _show_bad(console, found.bad, "bad")


@app.command("verify")
def verify_command(
    data: Data,
    as_json: AsJson = False,
    bad_list: Annotated[
        Path | None, typer.Option("--list", metavar="FILE", help="write 'path<TAB>reason' of bad files")
    ] = None,
    channels: Channels = 3,
) -> None:
    """Decode every image, as training will. Exit code 1 when one cannot be read."""
    from openjepa.data.inspection import verify
    from openjepa.errors import DataError

    with _progress("decoding") as on_progress:
        result = verify(data, on_progress, channels=channels)
    if bad_list is not None:
        try:
            bad_list.write_text("".join(f"{name}\t{reason}\n" for name, reason in result.bad.items()), encoding="utf-8")
        except OSError as error:
            raise DataError(f"--list {bad_list}: {(error.strerror or str(error)).lower()}") from error
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        console = _console()
        _show_bad(console, result.unreadable, "unreadable folder")
        _show_bad(console, result.bad, "bad")
        total = result.ok + len(result.bad)
        rate = total / max(result.seconds, 1e-9)
        console.print(f"{result.ok:,} of {total:,} images are readable, {len(result.bad):,} bad ({rate:,.0f} images/s)")
    if result.bad or result.unreadable:
        raise typer.Exit(1)
