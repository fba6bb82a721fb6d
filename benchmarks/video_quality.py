"""What tiny encoders of clips learn of motion and of content, beside what needs no learning; resumable, on one thread.

    python benchmarks/video_quality.py caltech=PHOTOS trashnet=PHOTOS scenes --seeds 0 1 2 [--budget 60]
    python benchmarks/video_quality.py bridge=bridge_mini_dev.npz real=VIDEOS --seeds 0        (smoke runs)

DATA is ``scenes``, or NAME=PATH: a folder of labelled photographs, of which camera clips are made once (camera_clips.py), an
``.npz`` of episodes ``images (episodes, cameras, steps, H, W, 3)``, whose episodes are written to small mp4 files, or any other
folder of videos. Every cell (data, arm, seed) trains one recipe and judges the frozen encoder, once its features are computed:

* motion and content probes: linear (logistic regression, penalty chosen on held-out training clips), 20 nearest neighbours and,
  with ``--attentive``, a one-block attentive probe; one clip from the middle, mean over tokens. Motion and content are
  independent labels, and one frame does not tell the motion. Videos without such labels are judged on scenes in motion.
* beside it: the same encoder before training, the trained encoder frame by frame (each frame an image, averaged), the pixels of
  four frames, and differences between frames. VideoMAE is an arm like the others.

Each number is one line of JSON in the store; what is there is not measured again, and an interrupted run goes on where it was.
With ``--budget`` no further cell is begun after so many minutes. The table has mean ± deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from camera_clips import camera_clips, write_mp4

import openjepa
from openjepa.config import load_recipe
from openjepa.data.clips import Clips
from openjepa.data.scene_clips import SceneClips
from openjepa.data.sources import open_source
from openjepa.errors import OpenJepaError
from openjepa.evaluation import knn, linear
from openjepa.evaluation.attentive import ProbeGrid, token_probe
from openjepa.evaluation.tokens import from_features
from openjepa.features import Features, cached_extract, cached_raw_pixels, frame_by_frame

RESULTS = Path(__file__).parent / "results" / "video_quality"
ARMS = {"vjepa": "vjepa-tiny", "vjepa2": "vjepa2-tiny", "videomae": "videomae-tiny"}
RANDOM, FRAMES, DIFFERENCES, PIXELS = "random initialisation", "frame by frame", "frame differences", "pixels"
ATTENTIVE = ProbeGrid(lrs=(1e-3, 3e-3, 1e-2), weight_decays=(0.01,), epochs=20, batch_size=128)
SCENES_SEED = 4_713  # of the scenes that judge, clear of those that are trained on
Sides = dict[str, tuple[Any, Any]]  # task → source of train and of val, labelled by it


class Store:
    """Results as lines of JSON, one file per name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def has(self, **what: object) -> bool:
        """Whether a line agrees in all of these."""
        return any(all(row.get(key) == value for key, value in what.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Write a line, at once."""
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def bridge_clips(archive: Path, out: Path) -> Path:
    """Episodes of a robot as mp4, one file per episode and camera that shows anything; five frames per second."""
    images = np.load(archive)["images"]  # (episodes, cameras, steps, H, W, 3)
    for episode, camera in np.ndindex(*images.shape[:2]):
        frames, path = images[episode, camera], out / f"camera{camera}" / f"{episode:03}.mp4"
        if frames.any() and not path.is_file():
            write_mp4(path, torch.from_numpy(frames).permute(0, 3, 1, 2), 5)
    return out


def prepare(name: str, path: str | None, args: argparse.Namespace) -> tuple[str, tuple[str, ...], bool]:
    """What is trained on, overrides for it, and whether it has labels of its own."""
    if path is None:
        return "scenes", (f"data.scenes_count={args.count}",), False
    place = Path(args.runs) / "clips" / name
    if path.endswith(".npz"):  # ten frames per episode: every frame of them
        return str(bridge_clips(Path(path), place)), ("data.clip.stride=1", *_small(args)), False
    folder = Path(path)
    pictures = any(file.suffix.lower() in (".jpg", ".jpeg", ".png") for file in folder.glob("train/*/*"))
    if pictures:
        clips = camera_clips(folder, place, count=args.count, size=args.size, seed=0)
        return str(clips / "motion"), (), True
    return str(folder), ("data.max_bad_share=1.0", *_small(args)), False


def _small(args: argparse.Namespace) -> tuple[str, ...]:
    """For a few dozen videos: small batches."""
    return ("train.batch_size=16",) if not any(word.startswith("train.batch_size") for word in args.set) else ()


def lengths(recipe: str, scale: float) -> tuple[str, ...]:
    """The recipe's own lengths, scaled, those of its stages too."""
    if scale == 1:
        return ()
    loaded = load_recipe(recipe)
    words = [f"train.length={_scaled(str(loaded.train.length), scale)}"]
    for k, stage in enumerate(loaded.stages):
        length = dict(stage.changes).get("train.length")
        if length is not None:
            words.append(f"stages.{k}.changes.train.length={_scaled(str(length), scale)}")
    return tuple(words)


def _scaled(length: str, scale: float) -> str:
    number, unit = length.split(" ", 1)
    return f"{max(round(float(number.replace(',', '')) * scale), 1)} {unit}"


def tasks(data: str, own: bool, model: Any, args: argparse.Namespace) -> Sides:
    """Labelled sources of both sides for motion and for content, cut as the model's clips are."""
    clip = model.config.data.clip
    cut = Clips.evaluation(clip)
    if own:
        root = Path(data).parent
        return {
            task: (
                open_source(root / f"train-{task}.csv", clip=cut),
                open_source(root / f"val-{task}.csv", clip=cut),
            )
            for task in ("motion", "content")
        }
    size = min(model.config.image_hw)
    return {
        task: (
            SceneClips(args.count, size, SCENES_SEED, clips=cut, label=label),  # type: ignore[arg-type]
            SceneClips(args.count // 2, size, SCENES_SEED, split="val", clips=cut, label=label),  # type: ignore[arg-type]
        )
        for task, label in (("motion", "action"), ("content", "shape"))
    }


def relabelled(found: Features, source: Any) -> Features:
    """The same features with another source's labels: those of motion and content are of the same files."""
    labels = torch.tensor([source.label(i) for i in found.ids.tolist()])
    return Features(found.values, found.ids, labels, found.item_ids, tuple(source.classes), found.protocol, found.bad)


def measure(subject: str, sides: Sides, extract: Any, store: Store, key: dict[str, Any], attentive: bool) -> None:
    """All probes of one subject that are not in the store; features are computed once."""
    wanted = ["linear", "knn", *(["attentive"] if attentive else [])]
    missing = [(t, p) for t in sides for p in wanted if not store.has(**key, subject=subject, task=t, probe=p)]
    found: dict[str, list[Features]] = {}
    for task, probe in missing:
        kind = "patch" if probe == "attentive" else "pooled"
        if kind not in found:
            found[kind] = [extract(source, kind) for source in sides["motion"]]
        train, val = (relabelled(f, source) for f, source in zip(found[kind], sides[task], strict=True))
        start = time.perf_counter()
        if probe == "attentive":
            score = token_probe(from_features(train, val), ATTENTIVE, seed=0)
        else:
            score = linear(train, val) if probe == "linear" else knn(train, val)
        row = {"subject": subject, "task": task, "probe": probe, "value": round(100 * score.value, 2)}
        row |= {"train": score.n_train, "val": score.n_val, "probe_seconds": round(time.perf_counter() - start, 1)}
        store.add({**key, **row})


def train(cell: tuple[str, str, int], data: str, changes: tuple[str, ...], args: argparse.Namespace) -> Path:
    """One run, continued when it was interrupted, left alone when it is finished."""
    name, arm, seed = cell
    out = Path(args.runs) / args.name / f"{name}-{arm}-s{seed}"
    if (out / "trained.json").is_file():
        return out
    quiet = ("log.every=10 %", "checkpoint.every=25 %", "probe.every=none", "train.threads=1")
    start = time.perf_counter()
    result = openjepa.pretrain(
        data, ARMS[arm], overrides=(*quiet, *lengths(ARMS[arm], args.scale), *changes, *args.set), seed=seed, out=out,
        resume=(out / "config.yaml").is_file(), device="cpu", judge=False, report=False, console=False,
    )  # fmt: skip
    facts = {"verdict": result.verdict, "seconds": round(time.perf_counter() - start), **losses(out)}
    (out / "trained.json").write_text(json.dumps(facts))
    print(f"{name} {arm} seed {seed}: {facts}", flush=True)
    return out


def losses(run: Path) -> dict[str, Any]:
    """First and last loss, and samples seen, over all stages."""
    rows = []
    for file in sorted(run.rglob("metrics.jsonl"), key=lambda path: path.stat().st_mtime):
        rows += [json.loads(line) for line in file.read_text().splitlines()]
    rows = [row for row in rows if "loss" in row and row.get("samples")]  # not the look before the first step
    if not rows:
        return {}
    return {"first_loss": rows[0]["loss"], "last_loss": rows[-1]["loss"], "samples": rows[-1]["samples"]}


def run_cell(cell: tuple[str, str, int], path: str | None, args: argparse.Namespace, store: Store) -> None:
    """Train and judge one cell, and the subjects that need no training."""
    name, arm, seed = cell
    data, changes, own = prepare(name, path, args)
    run = train(cell, data, changes, args)
    model = openjepa.load(run)
    sides = tasks(data, own, model, args)
    key: dict[str, Any] = {"data": name, "arm": arm, "seed": seed, "scale": args.scale, "count": args.count}
    subjects = {"trained": model.encoder, RANDOM: model.fresh(), FRAMES: frame_by_frame(model.encoder)}
    for subject, encoder in subjects.items():

        def extract(source: Any, kind: str, encoder: Any = encoder) -> Features:
            return cached_extract(
                encoder, source, model.transform, normalise=model.normalise, tokens=kind, batch_size=64  # type: ignore[arg-type]
            )  # fmt: skip

        measure(subject, sides, extract, store, key, args.attentive and subject != FRAMES)
    clip = model.config.data.clip
    for subject in (DIFFERENCES, PIXELS):  # once for each way clips are cut

        def pixels(source: Any, kind: str, different: bool = subject == DIFFERENCES) -> Features:
            return cached_raw_pixels(source, model.transform, differences=different)

        measure(subject, sides, pixels, store, {**key, "arm": f"{clip.frames} frames", "seed": 0, "scale": 0}, False)
    facts = json.loads((run / "trained.json").read_text())
    if not store.has(**key, subject="run"):
        store.add({**key, "subject": "run", **facts})


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown: for each data set a row per subject, mean ± deviation over seeds in per cent."""
    scores = [row for row in rows if "probe" in row]
    columns = list(dict.fromkeys((row["task"], row["probe"]) for row in scores))
    for data in dict.fromkeys(row["data"] for row in scores):
        here = [row for row in scores if row["data"] == data]
        yield f"\n**{data}** ({here[0]['train']:,} clips to fit on, {here[0]['val']:,} to judge)\n"
        yield "| features | seeds | " + " | ".join(f"{task}, {probe} %" for task, probe in columns) + " |"
        yield "|---" * (2 + len(columns)) + "|"
        order = sorted({(row["subject"] == "trained", row["arm"], row["subject"]) for row in here}, reverse=True)
        for _, arm, subject in order:
            mine = [row for row in here if (row["arm"], row["subject"]) == (arm, subject)]
            cells = []
            for task, probe in columns:
                values = [row["value"] for row in mine if (row["task"], row["probe"]) == (task, probe)]
                spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "")
            seeds = len({row["seed"] for row in mine})
            yield f"| {arm} {'' if subject == 'trained' else subject} | {seeds} | {' | '.join(cells)} |"
    for row in rows:
        if row["subject"] == "run":
            loss = f"loss {row.get('first_loss', 0):.3f} → {row.get('last_loss', 0):.3f}"
            yield f"\n{row['data']} {row['arm']} seed {row['seed']}: {loss}, {row['seconds']} s, {row['verdict']}"


def main() -> None:
    """Measure what is missing within the budget, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", help="scenes, or NAME=PATH")
    parser.add_argument("--name", default="tiny", help="of the store and of the folder of runs")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=2000, help="training clips of camera clips and scenes")
    parser.add_argument("--size", type=int, default=72, help="pixels of camera clips")
    parser.add_argument("--scale", type=float, default=1.0, help="of the recipes' lengths")
    parser.add_argument("--attentive", action="store_true", help="also a one-block attentive probe")
    parser.add_argument("--budget", type=float, default=float("inf"), help="minutes after which no cell is begun")
    parser.add_argument("--runs", default="runs/video_quality", help="where clips and runs go")
    parser.add_argument("--set", nargs="*", default=[], help="recipe keys for every arm")
    args = parser.parse_args()
    torch.set_num_threads(1)
    store, start, failed = Store(RESULTS / f"{args.name}.jsonl"), time.monotonic(), []
    named = [tuple(word.split("=", 1)) if "=" in word else (word, None) for word in args.data]
    if any(path is None and name != "scenes" for name, path in named):
        raise SystemExit("DATA is 'scenes' or NAME=PATH")
    for seed in args.seeds:  # one seed of everything before the next
        for name, path in named:
            for arm in args.arms:
                if (time.monotonic() - start) / 60 > args.budget:
                    print(f"budget of {args.budget:g} minutes spent before {name} {arm} seed {seed}", flush=True)
                    break
                try:
                    run_cell((name, arm, seed), path, args, store)  # type: ignore[arg-type]
                except OpenJepaError as error:  # the others are still worth having
                    failed.append(f"{name} {arm} seed {seed}: {error}")
                    print(failed[-1], flush=True)
    print("\n".join(table(store.rows)))
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
