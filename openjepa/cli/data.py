"""``openjepa data inspect|verify|convert``: what a folder holds, whether all of it can be read, and the same in shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:  # torch is imported when a command runs, not for --help
    from rich.console import Console

    from openjepa.data.clips import Clips
    from openjepa.data.inspection import Inspection
    from openjepa.data.video_inspection import VideoSummary

app = typer.Typer(
    help="Look at a folder, list file or built-in before training on it.", add_completion=False, no_args_is_help=True
)

Data = Annotated[
    str, typer.Argument(metavar="DATA", help="folder, list file, image, video, shards ('x-{00..10}.tar'), or 'scenes'")
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]
Video = Annotated[
    bool | None,
    typer.Option("--video/--images", help="take DATA for videos, or for images; by default what there is more of"),
]
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


def _counts(table: dict[str, int]) -> str:
    """``name count, …``, the first few."""
    shown = [f"{name} {count:,}" for name, count in list(table.items())[:_SHOWN]]
    return ", ".join(shown) + (f", … {len(table) - _SHOWN} more" if len(table) > _SHOWN else "")


def _video_rows(videos: VideoSummary, size: int) -> Iterator[tuple[str, str]]:
    """What to show of videos, as (what, value)."""
    yield "videos", f"{videos.count:,} ({size / 1e6:,.1f} MB, {videos.hours:,.2f} hours)"
    for name, table in (
        ("containers", videos.containers),
        ("codecs", videos.codecs),
        ("sizes", videos.sizes),
        ("frames per second", videos.fps),
    ):
        if table:
            yield name, _counts(table)
    if videos.variable:
        yield "variable frame rate", f"{videos.variable:,} of the videos"
    if videos.seconds:
        yield "seconds", f"{videos.seconds.min:.3g} to {videos.seconds.max:.3g}, median {videos.seconds.median:.3g}"
    if videos.frames:
        uncounted = sum(videos.containers.values()) - videos.counted
        by_header = f" (of {uncounted:,} long ones by their header)" if uncounted else ""
        spread = videos.frames
        yield "frames", f"{spread.min:,.0f} to {spread.max:,.0f}, median {spread.median:,.0f}{by_header}"
    for note in videos.notes:
        yield "clips", note


def _clip(frames: int | None, fps: float | None, stride: int | None) -> Clips | None:
    """The clip asked about."""
    from openjepa.data.clips import Clips
    from openjepa.errors import ConfigError

    if frames is None:
        if fps is not None or stride is not None:
            raise ConfigError("--fps and --stride say how a clip's frames lie: give --frames too")
        return None
    return Clips(frames, fps, stride, "start")


def _rows(found: Inspection) -> Iterator[tuple[str, str]]:
    """What to show of an inspection, as (what, value)."""
    yield "data", found.root
    if found.note:
        yield "note", found.note
    if found.videos is not None:
        yield from _video_rows(found.videos, found.bytes)
    else:
        yield "images", f"{found.images:,} ({found.bytes / 1e6:,.1f} MB)"
    for name, spread in (("width", found.width), ("height", found.height)):
        if spread:
            yield name, f"{spread.min} to {spread.max}, median {spread.median}"
    for name, table in (("formats", found.formats), ("modes", found.modes), ("channels", found.channels)):
        if table:
            yield name, _counts(table)
    yield "classes", "none" if found.classes is None else f"{len(found.classes)}: {_counts(found.classes)}"
    if found.ignored:
        yield "other files", _counts(found.ignored)
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
def inspect_command(
    data: Data,
    as_json: AsJson = False,
    channels: Channels = 3,
    video: Video = None,
    frames: Annotated[
        int | None, typer.Option(help="also say how clips of so many frames fit the videos", min=1)
    ] = None,
    fps: Annotated[float | None, typer.Option(help="frames per second of such a clip", min=0.001)] = None,
    stride: Annotated[int | None, typer.Option(help="or every n-th frame of the file", min=1)] = None,
) -> None:
    """Count images or videos, sizes, formats, classes, duplicates and unreadable files, from file headers (fast)."""
    from rich.table import Table
    from rich.text import Text

    from openjepa.data.inspection import inspect

    with _progress("reading headers") as on_progress:
        clip = _clip(frames, fps, stride)
        found = inspect(data, channels=channels, video=video, clip=clip, on_progress=on_progress)
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
    video: Video = None,
) -> None:
    """Decode every image, or every frame of every video. Exit code 1 when one cannot be read."""
    from openjepa.data.inspection import verify
    from openjepa.errors import DataError

    with _progress("decoding") as on_progress:
        result = verify(data, on_progress, channels=channels, video=video)
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
        rate = (result.frames or total) / max(result.seconds, 1e-9)
        what = f"{result.frames:,} frames, {rate:,.0f} frames/s" if result.kind == "video" else f"{rate:,.0f} images/s"
        console.print(f"{result.ok:,} of {total:,} {result.kind}s are readable, {len(result.bad):,} bad ({what})")
    if result.bad or result.unreadable:
        raise typer.Exit(1)


@app.command("convert")
def convert_command(
    data: Data,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="a new folder for the shards")],
    format: Annotated[
        Literal["webdataset", "parquet"], typer.Option(help="tars, or Parquet files as the datasets library has them")
    ] = "webdataset",
    shard_mb: Annotated[float, typer.Option(help="megabytes of a shard, about")] = 256.0,
    check: Annotated[bool, typer.Option("--check", help="decode every file first and leave out the bad ones")] = False,
    split: Annotated[Literal["train", "val"] | None, typer.Option(help="of a folder that has both")] = None,
    video: Video = None,
) -> None:
    """Copy images or videos into shards, read back and compared. Killed, the same command goes on."""
    from openjepa.data.convert import convert

    with _progress("converting") as on_progress:
        done = convert(
            data, out, format=format, shard_mb=shard_mb, check=check, split=split, video=video, on_progress=on_progress
        )
    console = _console()
    _show_bad(console, dict(done.bad), "left out")
    there = len(done.shards) - done.written
    before = f", {there:,} were there already" if there else ""
    console.print(f"{done.items:,} items, {done.bytes / 1e6:,.1f} MB in {len(done.shards):,} shards in {out}{before}")
