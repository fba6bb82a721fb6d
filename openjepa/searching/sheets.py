"""Contact sheets of answers and of near duplicates: one self-contained HTML file, and a CSV of the duplicates.

Whatever comes from the data (file names above all) is escaped by the template engine.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openjepa.errors import require
from openjepa.searching.duplicates import Duplicates, Group
from openjepa.searching.hits import Hits
from openjepa.searching.thumbnails import Thumbnail, thumbnail
from openjepa.visualize.output import write_bytes

TEMPLATES = Path(__file__).parent / "templates"
_GROUPS = 200  # groups drawn
_MEMBERS = 24  # rows drawn of one group


@dataclass(frozen=True)
class Tile:
    """One card. head: what stands first below the picture. first: it is drawn with a frame."""

    uri: str
    reason: str
    head: str
    name: str
    label: str = ""
    times: str = ""
    first: bool = False


@dataclass(frozen=True)
class Tiles:
    """Cards under one heading."""

    heading: str
    tiles: tuple[Tile, ...]


def write_sheet(hits: Hits, out: str | Path) -> Path:
    """The question and its answers as pictures.

    Raises:
        RunError: the file cannot be written. MissingExtra: jinja2 is not installed.
    """
    asked = hits.asked
    query = Thumbnail(reason=asked.text) if not asked.path else thumbnail(asked.path, asked.at, asked.text)
    tiles = [_tile(query, "query", asked.text, first=True)]
    for hit in hits.hits:
        at = None if hit.start is None or hit.end is None else (hit.start + hit.end) / 2
        span = seconds(hit.start, hit.end)
        tiles.append(
            _tile(thumbnail(hit.path, at, hit.id), f"{hit.rank} · {hit.similarity:.3f}", hit.id, hit.label, span)
        )
    notes = [f"{len(hits.hits):,} nearest by the cosine of features, the most alike first. {hits.method}."]
    return _write(Path(out), f"Like {asked.text}", notes, [Tiles("", tuple(tiles))])


def write_duplicates(found: Duplicates, out: str | Path) -> tuple[Path, Path]:
    """Near duplicates as pictures, and as a table of the same name ending in ``.csv``; both paths.

    The table has a line per row of a group: ``group`` from 1, ``keep`` (yes for the first of a group, else no),
    ``similarity`` to that first one, ``id``, ``path``, ``start``, ``end``.

    Raises:
        RunError: a file cannot be written. MissingExtra: jinja2 is not installed.
    """
    out = Path(out)
    page = out if out.suffix.lower() in (".html", ".htm") else out.with_name(f"{out.stem}.html")
    table = write_bytes(page.with_suffix(".csv"), _table(found).encode("utf-8"))
    notes = [
        f"{found.extra:,} of {found.searched:,} rows repeat another, in {len(found.groups):,} groups: cosine of features "
        f"{found.threshold:g} or more to the first of the group (framed). {found.method[:1].upper()}{found.method[1:]}.",
        "Features are alike for what the encoder ignores, too: look before you delete.",
    ]
    if len(found.groups) > _GROUPS:
        notes.append(f"The {_GROUPS} largest groups are shown; {table.name} has all.")
    groups = [_group(found, number, group) for number, group in enumerate(found.groups[:_GROUPS], 1)]
    return _write(page, f"Near duplicates in {found.index.table.path.name}", notes, groups), table


def seconds(start: float | None, end: float | None) -> str:
    """``"1:02.5 to 1:06.5"``, empty without times."""
    if start is None or end is None:
        return ""
    return f"{_clock(start)} to {_clock(end)}"


def _clock(moment: float) -> str:
    minutes, tenths = divmod(round(moment * 10), 600)
    return f"{minutes}:{tenths / 10:04.1f}"


def _group(found: Duplicates, number: int, group: Group) -> Tiles:
    table, tiles = found.index.table, []
    for row, similarity in list(zip(group.rows, group.similarity, strict=True))[:_MEMBERS]:
        first, times = row == group.rows[0], table.times(row)
        picture = thumbnail(table.files[row], None if times is None else sum(times) / 2, table.ids[row])
        head = "keep" if first else f"{similarity:.4f}"
        span = "" if times is None else seconds(*times)
        tiles.append(_tile(picture, head, table.ids[row], table.label(row), span, first=first))
    more = f", {len(tiles)} shown" if len(group.rows) > len(tiles) else ""
    return Tiles(f"Group {number}: {len(group.rows):,} rows{more}", tuple(tiles))


def _table(found: Duplicates) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["group", "keep", "similarity", "id", "path", "start", "end"])
    table = found.index.table
    for number, group in enumerate(found.groups, 1):
        for row, similarity in zip(group.rows, group.similarity, strict=True):
            keep = "yes" if row == group.rows[0] else "no"
            times = table.times(row) or ("", "")
            writer.writerow([number, keep, f"{similarity:.6f}", table.ids[row], table.files[row], *times])
    return buffer.getvalue()


def _tile(picture: Thumbnail, head: str, name: str, label: str = "", times: str = "", first: bool = False) -> Tile:
    return Tile(picture.uri, picture.reason, head, name, label, times, first)


def _write(path: Path, title: str, notes: Sequence[str], groups: Sequence[Tiles]) -> Path:
    jinja2 = require("jinja2", "viz")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("sheet.html.j2").render(title=title, notes=notes, groups=groups)
    return write_bytes(path, page.encode("utf-8", "backslashreplace"))
