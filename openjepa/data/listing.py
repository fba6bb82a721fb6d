"""Which files a folder or a list file names, without opening any of them."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from openjepa.data.readers import is_image_name
from openjepa.errors import DataError, nearest

LIST_SUFFIXES = (".txt", ".lst", ".csv", ".tsv")
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}
_PATH_COLUMNS: tuple[str, ...] = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img")
_PATH_COLUMNS += ("video", "video_path", "video_name", "clip")
_LABEL_COLUMNS = ("class_name", "class", "label", "target", "category", "y")


@dataclass(frozen=True)
class Kind:
    """What a listing looks for. noun: how errors call one. accepts: whether a path, below a folder, names one."""

    noun: str
    accepts: Callable[[Path, str], bool]


IMAGES = Kind("image", lambda root, name: is_image_name(name))


class PathTable(Sequence[str]):
    """Many paths in two arrays. A Python list of a million strings would be copied into every loader process, page by
    page, as its reference counts change; this is shared for good.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        encoded = [os.fsencode(p) for p in paths]
        self._blob = b"".join(encoded)
        self._ends = np.cumsum([len(e) for e in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        start = int(self._ends[index - 1]) if index > 0 else 0
        return os.fsdecode(self._blob[start : int(self._ends[index])])


@dataclass
class Listing:
    """Images found, before any is opened.

    paths: relative to root, sorted for a folder, in order for a list file. labels: index into classes, -1 none; None
    when unlabelled. ignored: other files by suffix. unreadable: folders that could not be listed, with the reason.
    lines: line number of each path in the list file it comes from.
    """

    root: Path
    paths: list[str]
    labels: list[int] | None = None
    classes: list[str] | None = None
    ignored: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, str] = field(default_factory=dict)
    lines: list[int] | None = None
    note: str = ""


def scan(
    folder: str,
    relative: str,
    ancestors: tuple[tuple[int, int], ...],
    out: Listing,
    wanted: Callable[[str], bool] = is_image_name,
) -> Iterator[str]:
    """Yield paths of wanted names under ``folder``, depth first in sorted order; a link to an ancestor is not entered
    again. Other files are counted in ``out.ignored``.
    """
    try:
        status = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        out.unreadable[relative or "."] = (error.strerror or str(error)).lower()
        return
    identity = (status.st_dev, status.st_ino)
    if identity in ancestors:
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        path = f"{relative}/{entry.name}" if relative else entry.name
        try:
            is_dir, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link in a circle of links
            is_dir, is_file = False, False
        if is_dir:
            yield from scan(entry.path, path, (*ancestors, identity), out, wanted)
        elif wanted(entry.name) and (is_file or entry.is_symlink()):  # a dangling link is a bad file, to be named
            yield path
        else:
            out.ignored[os.path.splitext(entry.name)[1].lower() or "(none)"] += 1


def _subfolder(root: Path, split: str) -> Path | None:
    """``root/train`` (or ``val``, ``valid``, ``validation``, ``test`` for ``val``) when it exists."""
    return next((root / name for name in SPLITS[split] if (root / name).is_dir()), None)


def choose_split(root: Path, split: str | None) -> tuple[Path, str]:
    """The folder of a split and a sentence that says so.

    A folder with ``train/`` and ``val/`` (or ``valid/``, ``test/``) inside means its ``train/`` unless another split is
    named.

    Raises:
        DataError: ``val`` is asked for and no such subfolder exists.
    """
    train, val = _subfolder(root, "train"), _subfolder(root, "val")
    if split == "val":
        if val is None:
            raise DataError(f"{root} has no validation split: looked for {', '.join(f'{n}/' for n in SPLITS['val'])}")
        return val, f"using {val.name}/ of {root}"
    if train is not None and (val is not None or split == "train"):
        return train, f"using {train.name}/ of {root}" + (f" ({val.name}/ is left for evaluation)" if val else "")
    return root, ""


def classes_of(paths: Sequence[str]) -> tuple[list[str], list[int]] | None:
    """First-level folders as classes, when there are at least two and no image lies beside them."""
    heads = [p.split("/", 1)[0] if "/" in p else "" for p in paths]
    names = sorted(set(heads))
    if "" in names or len(names) < 2:
        return None
    number = {name: k for k, name in enumerate(names)}
    return names, [number[h] for h in heads]


def list_folder(root: Path, split: str | None = None) -> Listing:
    """All images under ``root``, flat or nested.

    Hidden files and folders are skipped; links are followed, but never in a circle.

    Raises:
        DataError: one line that names what was looked for and what is there instead.
    """
    root, note = choose_split(root, split)
    out = Listing(root, [], note=note)
    out.paths = sorted(scan(str(root), "", (), out))
    if not out.paths:
        raise DataError(_nothing_in(out))
    found = classes_of(out.paths)
    if found:
        out.classes, out.labels = found
    return out


def _nothing_in(out: Listing) -> str:
    """Why a folder without images is no use."""
    looked = "looked for .jpg, .png, .webp, .bmp, .tif, .gif, .npy in it and its subfolders"
    if out.unreadable:
        name, reason = next(iter(out.unreadable.items()))
        where = out.root if name == "." else out.root / name
        return f"no image can be listed under {out.root}: {where}: {reason}"
    if out.ignored:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in out.ignored.most_common(3))
        return f"{out.root} holds no images: {looked}; it has {kinds}"
    return f"{out.root} is empty: {looked}"


def _rows(path: Path, kind: Kind) -> Iterator[tuple[int, list[str]]]:
    """``(line number, fields)`` of a list file; blank lines and ``#`` comments are skipped."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    comma = {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if comma:
            fields = [f.strip() for f in next(csv.reader([line], delimiter=comma))]
            if len(fields) > 1:
                yield number, fields
                continue
        whole = line.strip()
        parts = whole.rsplit(None, 1)
        spaced = not kind.accepts(path.parent, whole) and (not comma or kind.accepts(path.parent, parts[0]))
        yield number, parts if spaced else [whole]  # a .csv may have spaces for commas, as V-JEPA's lists do


def _columns(fields: list[str], root: Path, kind: Kind) -> tuple[int, int | None, int | None] | None:
    """Column numbers of path, label and split when ``fields`` is a header row, else None."""
    lower = [f.lower() for f in fields]
    path = next((lower.index(n) for n in _PATH_COLUMNS if n in lower), None)
    if path is None or any(kind.accepts(root, f) for f in fields):
        return None
    label = next((lower.index(n) for n in _LABEL_COLUMNS if n in lower), None)
    return path, label, lower.index("split") if "split" in lower else None


def _parse(path: Path, kind: Kind) -> Iterator[tuple[int, str, str | None, str | None]]:
    """``(line number, path, label, split)`` of every line.

    Raises:
        DataError: a line that names nothing of this kind, or has more fields than path and label without a header to name them.
    """
    columns: tuple[int, int | None, int | None] | None = None
    for row, (number, fields) in enumerate(_rows(path, kind)):
        if row == 0 and (columns := _columns(fields, path.parent, kind)):
            continue
        at, label, split = columns or (0, 1 if len(fields) > 1 else None, None)
        if columns is None and len(fields) > 2:
            raise DataError(
                f"{path} line {number}: {len(fields)} fields: write 'path' or 'path, label', or a header row"
            )
        if len(fields) <= max(at, label or 0, split or 0):
            raise DataError(f"{path} line {number}: {len(fields)} fields, fewer than the header names")
        if not kind.accepts(path.parent, fields[at]):
            shown = " ".join(fields)[:80]
            raise DataError(f"{path} line {number}: '{shown}' names no {kind.noun}: write 'path' or 'path label'")
        yield (
            number,
            fields[at],
            None if label is None else fields[label] or None,
            None if split is None else fields[split],
        )


def number_labels(names: Sequence[str | None]) -> tuple[list[str] | None, list[int] | None]:
    """Classes and label indices of label texts; whole numbers are taken as they are, so that two lists agree."""
    known = {n for n in names if n is not None}
    if not known:
        return None, None
    if all(n.isascii() and n.isdigit() and int(n) < 1_000_000 for n in known):
        return [str(k) for k in range(max(map(int, known)) + 1)], [-1 if n is None else int(n) for n in names]
    classes = sorted(known)
    number = {name: k for k, name in enumerate(classes)}
    return classes, [-1 if n is None else number[n] for n in names]


def list_file(path: Path, split: str | None = None, kind: Kind = IMAGES) -> Listing:
    """Images (or another kind) named by a text, CSV or TSV file: one ``path [label]`` per line, or columns named by a header row.

    Paths are relative to the file's folder and may hold spaces. A header may name a split column, of which ``split``
    (``train`` by default) is used.

    Raises:
        DataError: no line names one, a line is malformed (its number is given), or none of the first files exists.
    """
    rows = list(_parse(path, kind))
    note = ""
    kinds = {r[3] for r in rows} - {None, ""}
    wanted = next((n for n in SPLITS[split or "train"] if n in kinds), None)
    if wanted is not None:
        rows = [r for r in rows if r[3] == wanted]
        note = f"using the rows of split '{wanted}' of {path}"
    elif split == "val":
        raise DataError(f"{path} has no validation split: looked for a 'split' column with {', '.join(SPLITS['val'])}")
    if not rows:
        raise DataError(f"{path} names no {kind.noun}s: write one 'path [label]' per line")
    root = path.parent
    if not any((root / r[1]).exists() or "%" in r[1] for r in rows[:100]):  # a pattern of frames is no file
        raise DataError(
            f"{path} line {rows[0][0]}: '{rows[0][1]}' does not exist, nor do the next lines (relative to {root})"
        )
    classes, labels = number_labels([r[2] for r in rows])
    return Listing(root, [r[1] for r in rows], labels, classes, lines=[r[0] for r in rows], note=note)


def missing_path(path: Path, builtins: Sequence[str]) -> DataError:
    """The error for a path that does not exist: the nearest folder that does, and the closest name in it."""
    parent = path.absolute()
    while not parent.exists() and parent != parent.parent:
        below, parent = parent.name, parent.parent
    try:
        names = [e.name for e in os.scandir(parent)] if parent.is_dir() else []
    except OSError:
        names = []
    hint = nearest(path, builtins) if path.name == str(path) else ""
    hint = hint or nearest(below, names)
    return DataError(f"no such file or folder: {path}; {parent} exists but has no '{below}'{hint}")
