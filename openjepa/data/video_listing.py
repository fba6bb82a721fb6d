"""Which videos a folder, list file or pattern of shards names, without opening any of them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from openjepa.data.frame_folder import is_pattern, numbered
from openjepa.data.listing import Kind, Listing, choose_split, classes_of, list_file, scan
from openjepa.data.readers import is_image_name
from openjepa.errors import DataError

#: Files with these endings (any case) are videos, ``.gif`` too; others in a folder are ignored and counted.
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".ts", ".mts", ".m2ts", ".asf", ".wmv", ".flv", ".3gp"}
    | {".mpg", ".mpeg", ".vob", ".ogv", ".mxf", ".h264", ".hevc", ".y4m"}
)
_LOOKED = "looked for .mp4, .mov, .mkv, .webm, .avi, .gif, .ts and folders of numbered frames in it and its subfolders"
_LOOSE = "a clip needs a video: use an image recipe, add them as a stream of kind images, or put each video's frames,"
_SAMPLED_FOLDERS = 3  # of which some sizes are compared, to tell frames from photographs


def is_video_name(name: str | Path) -> bool:
    """The name ends like a video (any case) and is not hidden."""
    base = os.path.basename(name)
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in VIDEO_SUFFIXES


def _names_video(root: Path, name: str) -> bool:
    """A video by its ending, a pattern of frames, or a folder that exists."""
    return is_video_name(name) or is_pattern(name) or (not is_image_name(name) and (root / name).is_dir())


VIDEOS = Kind("video", _names_video)


def list_videos(path: Path, split: str | None = None) -> Listing:
    """Videos named by a list file: see :func:`openjepa.data.listing.list_file`. Folders in it are folders of frames."""
    return list_file(path, split, VIDEOS)


def list_video_folder(root: Path, split: str | None = None) -> Listing:
    """All videos under ``root``, flat or nested: files, and folders that hold the numbered frames of one video.

    First-level subfolders are classes when there are at least two of them.

    Raises:
        DataError: one line that names what was looked for and what is there instead; loose photographs say what to do.
    """
    root, note = choose_split(root, split)
    out = Listing(root, [], note=note)
    found = list(scan(str(root), "", (), out, lambda name: is_video_name(name) or is_image_name(name)))
    videos = [path for path in found if is_video_name(path)]
    images = [path for path in found if not is_video_name(path)]
    folders, loose = _frame_folders(images)
    _check_sizes(root, folders)
    for path in loose:
        out.ignored[os.path.splitext(path)[1].lower()] += 1
    out.paths = sorted([*videos, *folders])
    if not out.paths:
        raise DataError(_nothing_in(out, loose))
    classes = classes_of(out.paths)
    if classes:
        out.classes, out.labels = classes
    if folders:
        count = sum(len(names) for names in folders.values())
        said = f"{len(folders):,} folders of numbered images ({count:,} frames) are taken as videos"
        out.note = f"{out.note}; {said}" if out.note else said
    return out


def _frame_folders(images: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """``folder → frame names`` of those whose images are all numbered alike, and the images of all others."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in images:
        folder, _, name = path.rpartition("/")
        by_folder[folder or "."].append(name)
    folders, loose = {}, []
    for folder, names in by_folder.items():
        ordered = numbered(names)
        if ordered is None:
            loose += [f"{folder}/{name}" for name in names]
        else:
            folders[folder] = ordered
    return folders, loose


def _check_sizes(root: Path, folders: dict[str, list[str]]) -> None:
    """Frames of a video are of one size: look at three headers of the first few folders.

    Raises:
        DataError: they differ, so these are photographs.
    """
    for folder, names in list(folders.items())[:_SAMPLED_FOLDERS]:
        sizes = set()
        for name in {names[0], names[len(names) // 2], names[-1]}:
            try:
                with Image.open(root / folder / name) as image:
                    sizes.add(image.size)
            except (OSError, ValueError, SyntaxError):  # a bad frame is named when it is read
                continue
        if len(sizes) > 1:
            raise DataError(
                f"{root / folder} holds photographs of several sizes, no frames of one video: {_LOOSE} numbered, in a "
                "folder of its own"
            )


def _nothing_in(out: Listing, loose: Sequence[str]) -> str:
    """Why a folder without videos is no use."""
    if out.unreadable:
        name, reason = next(iter(out.unreadable.items()))
        return f"no video can be listed under {out.root}: {out.root if name == '.' else out.root / name}: {reason}"
    if loose:
        return f"{out.root} holds {len(loose):,} loose images, as {loose[0]}: {_LOOSE} numbered, in a folder of its own"
    tars = out.ignored.get(".tar", 0)
    if tars:
        return f"{out.root} holds no videos but {tars} .tar: name shards by a pattern, as '{out.root}/*.tar'"
    if out.ignored:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in out.ignored.most_common(3))
        return f"{out.root} holds no videos: {_LOOKED}; it has {kinds}"
    return f"{out.root} is empty: {_LOOKED}"
