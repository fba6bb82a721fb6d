"""What ``ijepa-tiny`` learns beside the published algorithm at the same model size, at equal wall-clock, resumable.

    python benchmarks/tiny_quality.py DATA --minutes 20 --arms tiny release --seeds 0 1 2

DATA holds ``train/`` and ``test/`` with one folder per class (the numbers in benchmarks/README.md: 10,000 + 2,000 CIFAR-10
images). Every seed trains its arms *side by side*, each on its own share of the threads, so that noise of the machine hits
all alike. How many steps an arm gets is settled once, by a short side-by-side calibration: the schedules of a recipe need to
know the length. A run that was killed goes on where it was; a finished one is not repeated. Protocol: EMA encoder, last layer,
mean-pooled, centred, cosine, k = 20, votes weighted by exp(cos/.07); logistic regression on standardised features at
scikit-learn's C = 1 (``linear c1``) and with C chosen on held-out training images (``linear``).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "tiny_quality"
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {  # arm → recipe and what it changes
    "tiny": ("ijepa-tiny", ()),
    "release": ("ijepa-tiny-release", ()),
    "no-prediction": ("ijepa-tiny", ("objective.weight=0", "objective.pooled=0")),
    "no-token-prediction": ("ijepa-tiny", ("objective.weight=0",)),
    "no-pooled-prediction": ("ijepa-tiny", ("objective.pooled=0",)),
    "no-regulariser": ("ijepa-tiny", ("objective.regularisers=[]",)),
    "not-centred": ("ijepa-tiny", ("target.transform=layer_norm",)),
    "multiblock": ("ijepa-tiny", ("mask={kind: multiblock, min_keep: 4}",)),
}
CALIBRATION_STEPS = 40


def train_arm(arm: str, data: str, seed: int, steps: int, threads: int, out: str, extra: tuple[str, ...]) -> None:
    """Train one arm in its own process; continues a run that was interrupted."""
    import torch

    import openjepa

    torch.set_num_threads(threads)
    recipe, changes = ARMS[arm]
    quiet = ("log.every=20 %", "checkpoint.every=10 %", "probe.every=none", f"train.threads={threads}")
    resume = (Path(out) / "config.yaml").is_file()
    openjepa.pretrain(
        data, recipe, overrides=(*changes, *quiet, *extra), steps=steps, seed=seed, out=out, resume=resume, judge=False,
        report=False, console=False,
    )  # fmt: skip


def side_by_side(jobs: list[dict]) -> None:
    """Run the jobs at once, one process each. A failed arm is an error here."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=train_arm, kwargs=job) for job in jobs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit(f"an arm ended with {[worker.exitcode for worker in workers]}")


def rate(run: Path) -> float:
    """Steps per second at the end of a calibration run, panel and probes left out."""
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return last["images_per_s"] * last["step"] / last["samples"]


def score(run: Path, data: str, *, random: bool) -> dict[str, float]:
    """KNN, linear (both protocols) in percent and effective rank of an encoder; or of its random initialisation."""
    from openjepa import api
    from openjepa.data import open_source
    from openjepa.evaluation import Settings, knn, linear
    from openjepa.features import cached_extract, rankme

    model = api.load(run)
    encoder = api.random_encoder(model.config) if random else model.encoder
    sides = [open_source(f"{data}/{side}", channels=model.config.data.channels) for side in ("train", "test")]
    train, val = (cached_extract(encoder, side, model.transform, normalise=model.normalise) for side in sides)
    return {
        "knn": 100 * knn(train, val, k=Settings().k).value,
        "linear c1": 100 * linear(train, val, c=1.0).value,
        "linear": 100 * linear(train, val).value,
        "rank": rankme(train.values),
    }


def pixels(data: str) -> dict[str, float]:
    """The same scores of the pixels themselves at 32 px."""
    from openjepa.config import load_recipe
    from openjepa.data import EvalTransform, open_source
    from openjepa.evaluation import knn, linear
    from openjepa.features import cached_raw_pixels

    transform = EvalTransform(load_recipe("ijepa-tiny").data)
    train, val = (cached_raw_pixels(open_source(f"{data}/{side}"), transform) for side in ("train", "test"))
    return {"knn": 100 * knn(train, val).value, "linear c1": 100 * linear(train, val, c=1.0).value}


def run_seed(args: argparse.Namespace, seed: int) -> None:
    """Calibrate, train and score the arms of one seed; what is already there is kept."""
    group = RESULTS / args.name
    missing = [arm for arm in args.arms if not (group / f"{arm}-s{seed}.json").is_file()]
    if not missing:
        return
    runs = Path(args.runs) / args.name
    shared = {"data": args.data, "seed": seed, "threads": args.threads, "extra": tuple(args.set)}
    plan_file = runs / "plan.json"
    plan = json.loads(plan_file.read_text()) if plan_file.is_file() else {}
    unknown = [arm for arm in missing if arm not in plan]
    if unknown:
        short = {"steps": CALIBRATION_STEPS, **shared}
        side_by_side([{"arm": arm, "out": str(runs / f"calibrate-{arm}"), **short} for arm in unknown])
        plan |= {arm: max(int(60 * args.minutes * rate(runs / f"calibrate-{arm}")), 1) for arm in unknown}
        plan_file.write_text(json.dumps(plan))
    print(f"seed {seed}: steps {plan}", flush=True)
    side_by_side([{"arm": arm, "steps": plan[arm], "out": str(runs / f"{arm}-s{seed}"), **shared} for arm in missing])
    for arm in missing:
        run = runs / f"{arm}-s{seed}"
        first, *_, last = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
        found = {
            "arm": arm, "seed": seed, "minutes": args.minutes, "threads": args.threads, "seconds": round(last["time"] - first["time"]),
            "samples": last["samples"], "verdict": last["health"]["verdict"], **score(run, args.data, random=False),
            "random": score(run, args.data, random=True),
        }  # fmt: skip
        group.mkdir(parents=True, exist_ok=True)
        (group / f"{arm}-s{seed}.json").write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found), flush=True)


def table(name: str) -> str:
    """Mean ± deviation over seeds of everything measured under ``name``."""
    found: dict[str, list[dict]] = {}
    for path in sorted((RESULTS / name).glob("*-s*.json")):
        one = json.loads(path.read_text())
        found.setdefault(one["arm"], []).append(one)
        found.setdefault(f"random initialisation of {one['arm']}", []).append({"samples": 0, **one["random"]})
    lines = [
        "| encoder | seeds | images seen | kNN % | linear (C=1) % | linear (C chosen) % | effective rank |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, rows in sorted(found.items(), key=lambda item: item[0].startswith("random")):
        cells = []
        for key in ("samples", "knn", "linear c1", "linear", "rank"):
            values = [row[key] for row in rows]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 and key != "samples" else ""
            cells.append(
                f"{statistics.mean(values):,.0f}" if key == "samples" else f"{statistics.mean(values):.1f}{spread}"
            )
        lines.append(f"| {arm} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--name", default="cifar10-20min", help="folder of results")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["tiny", "release"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="per arm")
    parser.add_argument("--runs", default="runs/tiny_quality", help="where the runs go")
    parser.add_argument("--set", nargs="*", default=[], help="recipe keys for every arm, such as data.image_size=64")
    parser.add_argument("--pixels", action="store_true", help="also score raw pixels")
    args = parser.parse_args()
    for seed in args.seeds:
        run_seed(args, seed)
    print(table(args.name))
    if args.pixels:
        print("raw pixels", {key: round(value, 1) for key, value in pixels(args.data).items()})


if __name__ == "__main__":
    main()
