"""Clips with real pixels and known motion: photographs seen by a moving camera, written to mp4.

    python benchmarks/camera_clips.py PHOTOS OUT --count 2000 --size 64 --frames 32 --seed 0 [--check]

PHOTOS is a folder of labelled photographs, with ``train/`` and ``test/`` (or ``val/``) inside, else a fifth is held out; a
photograph of one side never appears on the other. Every clip is one photograph and one of nine motions, drawn by its own
hash, so that motion and content are independent labels. Pans and zooms are named by the camera (``pan-left``: its window goes
left, so the picture moves right), rotations by the picture:

    OUT/motion/{train,val}/<motion>/<class>-<photograph>-<pass>.mp4      the motion is the folder
    OUT/{train,val}-content.csv, OUT/{train,val}-motion.csv              path,label: either one for the same files

    openjepa pretrain OUT/motion --recipe vjepa-tiny
    openjepa evaluate linear --model RUN --train OUT/train-content.csv --val OUT/val-content.csv

**One frame does not tell the motion.** The camera's state is where its window stands, how wide it is and how it is turned.
The photograph is mirrored at its borders for ever, so places form a torus and angles a circle; width is a share of the short
side between two bounds. For every frame of every clip, whatever the motion, the state is a draw from one distribution: place
uniform on the torus, angle uniform on the circle, width uniform between its bounds. A pan moves the place and a rotation the
angle, at constant speed, which leaves uniform what is uniform; a zoom moves the width along a sawtooth with a steep (not
sudden) way back, whose values are uniform because its phase is; hands that tremble (a little always, much in ``shake``) add small independent steps. So first, middle and
last frames have the same distribution for all motions, in content, place, blur and orientation alike: the same anti-aliased
sampling at fractional positions draws them all, and frames carry no motion blur. What could still leak is how the codec treats
motion; at the quality used here (crf 14) nearest neighbours of single decoded frames find nothing (``--check`` measures it).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openjepa.data import holdout, open_source, read_image
from openjepa.data.seeds import Stream, mix, permutation, uniform
from openjepa.data.splits import has_val
from openjepa.errors import DataError

MOTIONS = ("pan-left", "pan-right", "pan-up", "pan-down", "zoom-in", "zoom-out", "rotate-cw", "rotate-ccw", "shake")
PANS = {"pan-right": (1, 0), "pan-left": (-1, 0), "pan-down": (0, 1), "pan-up": (0, -1)}  # where the window goes
WIDTH = (0.5, 1.1)  # of the window, as a share of the photograph's short side
PAN = (0.015, 0.03)  # window widths per frame
ROTATE = (0.03, 0.06)  # radians per frame
ZOOM = (44.0, 60.0)  # frames per sawtooth
SLOW = 0.94  # share of it in which the zoom goes the way its name says
SHAKE = (0.06, 0.06)  # window widths, radians: largest step away from where the camera stands
TREMOR = (0.015, 0.01)  # the same for every other motion: it is held by hand
SHORT_SIDE = 160  # larger photographs are reduced to it
CRF = 14
VERSION = 1


@dataclass(frozen=True)
class Photo:
    """A photograph. name: unique, fit for a file name."""

    path: Path
    label: str
    name: str


@dataclass(frozen=True)
class Poses:
    """The camera through time: centre of the window in short sides, its width in short sides, its angle; each ``(T,)``."""

    x: np.ndarray
    y: np.ndarray
    width: np.ndarray
    angle: np.ndarray


def photographs(folder: str | Path) -> dict[str, list[Photo]]:
    """Photographs of both sides, ``train`` and ``val``, in an order that has nothing to do with their names."""
    folder = Path(folder)
    if has_val(str(folder)):
        sides = {"train": open_source(folder, split="train"), "val": open_source(folder, split="val")}
    else:
        sides = dict(zip(("train", "val"), holdout(open_source(folder), 0.2, 0), strict=True))
    found = {}
    for side, source in sides.items():
        if source.classes is None:
            raise DataError(f"{folder} has no classes: photographs need content labels, one folder per class")
        paths = getattr(source, "source", source)  # a held-out share is a subset
        where = getattr(source, "indices", range(len(source)))
        rows = [(paths.path(int(k)), source.classes[source.label(i)], source.item_id(i)) for i, k in enumerate(where)]
        photos = [Photo(path, label, f"{_plain(label)}-{_plain(Path(item).stem)}") for path, label, item in rows]
        found[side] = [photos[i] for i in permutation(len(photos), 0xCA3)]
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", name)


def motion_of(name: str, repeat: int, seed: int) -> str:
    """Motion of a photograph's ``repeat``-th clip: a hash, so independent of content."""
    return MOTIONS[mix(seed, zlib.crc32(name.encode()), repeat) % len(MOTIONS)]


def poses(motion: str, frames: int, aspect: tuple[float, float], *keys: int) -> Poses:
    """The camera's path. aspect: height and width of the photograph in short sides; keys: name the random numbers."""
    u = Stream("camera", *keys).draw(5)
    t, still = np.arange(frames, dtype=np.float64), np.zeros(frames)
    angle = 2 * math.pi * u[2] + still
    if motion.startswith(
        "rotate"
    ):  # a camera that rolls clockwise sees the world turn the other way: named by the picture
        angle = angle + (-1 if motion == "rotate-cw" else 1) * (ROTATE[0] + (ROTATE[1] - ROTATE[0]) * u[4]) * t
    rise = {"zoom-in": 1 - SLOW, "zoom-out": SLOW}.get(motion)
    phase = u[3] + (t / (ZOOM[0] + (ZOOM[1] - ZOOM[0]) * u[4]) if rise is not None else still)
    part, up = phase - np.floor(phase), rise if rise is not None else SLOW
    width = WIDTH[0] + (WIDTH[1] - WIDTH[0]) * np.where(part < up, part / up, (1 - part) / (1 - up))
    x, y = 2 * aspect[1] * u[0] + still, 2 * aspect[0] * u[1] + still
    if motion in PANS:
        along, down = PANS[motion]
        step = (PAN[0] + (PAN[1] - PAN[0]) * u[4]) * width * t
        x = x + step * (along * np.cos(angle) - down * np.sin(angle))
        y = y + step * (along * np.sin(angle) + down * np.cos(angle))
    far, turned = SHAKE if motion == "shake" else TREMOR
    shaken = 2 * uniform(3 * frames, zlib.crc32(b"shake"), *keys).reshape(3, frames) - 1
    return Poses(x + far * width * shaken[0], y + far * width * shaken[1], width, angle + turned * shaken[2])


def film(photo: Tensor, path: Poses, size: int) -> Tensor:
    """Frames ``(T, 3, size, size)`` uint8 of ``photo (3, h, w)`` uint8, mirrored at its borders, each averaged of 2 × 2
    samples per pixel.
    """
    height, width = photo.shape[-2:]
    short, fine = min(height, width), 2 * size
    steps = (np.arange(fine) + 0.5) / fine - 0.5
    across, down = steps[None, None, :], steps[None, :, None]  # in window widths
    c, s = (f(path.angle)[:, None, None] for f in (np.cos, np.sin))
    wide = path.width[:, None, None]
    x = (
        (path.x[:, None, None] + wide * (across * c - down * s)) * short / width
    )  # (T, fine, fine), 0..1 is the photograph
    y = (path.y[:, None, None] + wide * (across * s + down * c)) * short / height
    grid = torch.from_numpy(np.stack([2 * (x % 2) - 1, 2 * (y % 2) - 1], -1)).float()
    seen = F.grid_sample(
        photo.float()[None].expand(len(grid), -1, -1, -1), grid, padding_mode="reflection", align_corners=False
    )
    return F.avg_pool2d(seen, 2).add_(0.5).clamp_(0, 255).to(torch.uint8)


def write_mp4(path: Path, frames: Tensor, fps: int) -> None:
    """Write ``(T, 3, h, w)`` uint8 as h264, whole or not at all."""
    import av

    scratch = path.with_name(f".{path.name}.new.mp4")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(scratch), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(CRF), "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[-2], frames.shape[-1], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    scratch.replace(path)


def read_mp4(path: Path) -> Tensor:
    """All frames ``(T, 3, h, w)`` uint8."""
    import av

    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def _photo(path: Path) -> Tensor:
    """A photograph, its short side at most 160 px."""
    photo = read_image(path, 3)
    scale = SHORT_SIDE / min(photo.shape[-2:])
    if scale >= 1:
        return photo
    size = [max(round(side * scale), 1) for side in photo.shape[-2:]]
    return F.interpolate(photo[None].float(), size=size, mode="area")[0].to(torch.uint8)


def _plan(photos: list[Photo], count: int, seed: int) -> Iterator[tuple[Photo, int, str]]:
    """``count`` clips: the photographs one after another, again and again, each time with a motion of its own."""
    for k in range(count):
        photo, repeat = photos[k % len(photos)], k // len(photos)
        yield photo, repeat, motion_of(photo.name, repeat, seed)


def camera_clips(
    folder: str | Path,
    out: str | Path,
    *,
    count: int = 2000,
    size: int = 64,
    frames: int = 32,
    fps: int = 16,
    seed: int = 0,
) -> Path:
    """Write ``count`` training clips, and a quarter as many to validate on, of the photographs in ``folder``.

    Nothing is done when ``out`` holds just these clips already; files that an interrupted call left are written anew.

    Raises:
        DataError: no photographs, or no classes; or a size that h264 cannot have.
    """
    if size % 2 or size < 16 or frames < 1 or count < 4:
        raise DataError(
            f"camera clips need an even size of at least 16 px, frames and a count of at least 4: got {size}"
        )
    out = Path(out)
    facts = {"version": VERSION, "photographs": Path(folder).name, "count": count, "size": size, "frames": frames}
    facts |= {"fps": fps, "seed": seed, "crf": CRF, "motions": list(MOTIONS)}
    done = out / "facts.json"
    if done.is_file() and json.loads(done.read_text()) == facts:
        return out
    if (out / "motion").is_dir() and done.is_file():
        raise DataError(f"{out} holds other camera clips ({done.name} says which): choose another folder")
    for side, photos in photographs(folder).items():
        rows = []
        for photo, repeat, motion in _plan(photos, count if side == "train" else count // 4, seed):
            place = Path("motion", side, motion, f"{photo.name}-{repeat}.mp4")
            if not (out / place).is_file():
                picture = _photo(photo.path)
                aspect = tuple(length / min(picture.shape[-2:]) for length in picture.shape[-2:])
                keys = seed, zlib.crc32(photo.name.encode()), repeat
                write_mp4(out / place, film(picture, poses(motion, frames, aspect, *keys), size), fps)  # type: ignore[arg-type]
            rows.append((str(place), photo.label, motion))
        for column, name in ((1, "content"), (2, "motion")):
            with (out / f"{side}-{name}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("path", "label"), *((row[0], row[column]) for row in rows)])
    done.write_text(json.dumps(facts))
    return out


def check(out: str | Path, stride: int = 2, length: int = 8) -> dict[str, float]:
    """What nearest neighbours find of motion and content, in per cent: in one frame, in the mean of a clip's frames, in the
    differences between frames. Chance: of motion 11 %, of content the largest class.
    """
    from openjepa.evaluation import knn
    from openjepa.features import Features
    from openjepa.features.clips import frame_differences

    sides = {}
    for side in ("train", "val"):
        rows = list(csv.DictReader((Path(out) / f"{side}-motion.csv").open()))
        content = [row["label"] for row in csv.DictReader((Path(out) / f"{side}-content.csv").open())]
        clips = torch.stack([_middle(read_mp4(Path(out) / row["path"]), stride, length) for row in rows])
        sides[side] = clips.transpose(1, 2).float() / 255, {"motion": [r["label"] for r in rows], "content": content}
    small = {
        s: F.interpolate(c.flatten(1, 2), size=16, mode="area").unflatten(1, c.shape[1:3])
        for s, (c, _) in sides.items()
    }
    pick = {
        s: torch.randint(0, length, (len(c),), generator=torch.Generator().manual_seed(0)) for s, c in small.items()
    }
    looks = {
        "random frame": {s: c[torch.arange(len(c)), :, pick[s]].flatten(1) for s, c in small.items()},
        "first frame": {s: c[:, :, 0].flatten(1) for s, c in small.items()},
        "last frame": {s: c[:, :, -1].flatten(1) for s, c in small.items()},
        "mean frame": {s: c.mean(2).flatten(1) for s, c in small.items()},
        "frame differences": {s: frame_differences(c) for s, (c, _) in sides.items()},
    }
    found = {}
    for what in ("motion", "content"):
        names = sorted(set(sides["train"][1][what]))
        labels = {s: torch.tensor([names.index(n) for n in about[what]]) for s, (_, about) in sides.items()}
        share = float(labels["val"].bincount().max() / len(labels["val"]))
        found[f"{what}, most frequent class"] = 100 * share
        for look, values in looks.items():
            train, val = (Features(values[s], torch.arange(len(values[s])), labels[s], (), tuple(names)) for s in sides)
            found[f"{what}, {look}"] = 100 * knn(train, val).value
    return found


def _middle(frames: Tensor, stride: int, length: int) -> Tensor:
    first = max(len(frames) - (length - 1) * stride - 1, 0) // 2
    return frames[first::stride][:length]


def main() -> None:
    """Write the clips and, when asked, say what single frames and differences tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("out")
    parser.add_argument("--count", type=int, default=2000, help="training clips; a quarter as many validate")
    parser.add_argument("--size", type=int, default=64, help="pixels per side")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--fps", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="nearest neighbours of single frames and of differences")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    try:
        out = camera_clips(
            args.photos, args.out, count=args.count, size=args.size, frames=args.frames, fps=args.fps, seed=args.seed
        )
    except DataError as error:
        raise SystemExit(str(error)) from error
    seconds, files = time.perf_counter() - start, list(out.rglob("*.mp4"))
    size = sum(file.stat().st_size for file in files)
    print(f"{len(files):,} clips, {size / 1e6:.1f} MB, {seconds:.0f} s ({1e3 * seconds / len(files):.1f} ms per clip)")
    if args.check:
        for name, value in check(out).items():
            print(f"{name}: {value:.1f} %")


if __name__ == "__main__":
    main()
