"""Is ``openjepa doctor RUN`` right? Makes healthy and sick runs, measures which are sick, and counts what the doctor says.

    python benchmarks/doctor.py calibration CIFAR/train
    python benchmarks/doctor.py judged TRASHNET/train
    python benchmarks/doctor.py --table

The doctor's rules were set on ``calibration`` (ijepa-tiny). ``judged`` is another recipe (multi-block masks, patches of a
48 px image, another width, depth, EMA and target) on other images; it never tuned them. The doctor sees what a user without
labels has: the recipe and ``metrics.jsonl``. Whether a run *is* sick is measured afterwards with labels: the effective rank
of its deployed features is under a tenth of the width, or its leave-one-out kNN (k = 20) is below that of the very encoder it
started from. A target momentum of 0 is no case of its own: it gave the weights of ``target.kind=self`` to the bit. Resumable: a finished run is not repeated. About a minute each on one thread.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "doctor"
IMAGES = 3000  # labelled images the truth is measured on, at most
QUIET = (
    "train.threads=1", "log.every=20 %", "checkpoint.every=100 %", "probe.every=none", "probe.max_train=20", "probe.max_val=20", "health.on_diverge=warn",
    "health.max_skipped=100000", "log.tensorboard=false",
)  # fmt: skip


@dataclass(frozen=True)
class Group:
    """A recipe with what all its runs change, and the numbers its cases multiply."""

    recipe: str
    overrides: tuple[str, ...]
    lr: float
    dim: int
    multiblock: str
    steps: int


GROUPS = {
    "calibration": Group("ijepa-tiny", ("train.batch_size=64",), 1e-3, 192, "min_keep: 4", 200),
    "judged": Group(
        "ijepa-tiny-release",
        (
            "train.batch_size=64", "data.image_size=48", "model.patch_size=8", "model.dim=96", "model.depth=4",
            "model.heads=4", "mask.context_mode=padded", "mask.borders=full", "predictor.dim=48", "mask.min_keep=6",
            "target.momentum=[0.98,1.0]",
            "objective.regularisers=[{kind: vicreg, weight: 1.0, covariance: 0.25}]", "objective.pooled=0.5",
        ),
        1e-3, 96, "min_keep: 6", 150,
    ),
}  # fmt: skip

BARE = ("objective.regularisers=[]", "objective.pooled=0")  # nothing but the prediction holds the features


def cases(group: Group) -> dict[str, tuple[str, ...]]:
    """What each run changes. Names say what was intended; whether it made the run sick is measured."""
    lr = group.lr
    blocks, hidden = group.multiblock, "mask={kind: none}"
    found = {
        "as shipped": (),
        "no regulariser": BARE,
        "lr x 30": (f"optim.lr={30 * lr}",),
        "identical images": ("data.cache=memory",),
        "self target": ("target.kind=self", *BARE),
        "no mask, wide predictor": (hidden, f"predictor.dim={group.dim}", *BARE),
        "leaking context": (f"mask={{kind: multiblock, overlap: true, {blocks}}}", *BARE),
        "no prediction": ("objective.weight=0", "objective.pooled=0"),
        "weight decay 100": ("optim.weight_decay=100", "optim.final_weight_decay=none"),
        "lr x 3": (f"optim.lr={3 * lr}",),
        "blocks": (f"mask={{kind: multiblock, {blocks}}}",),
        "self target, regularised": ("target.kind=self",),
        "frozen target": ("target.kind=frozen",),
        "sigreg": ("objective.regularisers=[{kind: sigreg, weight: 0.02}]",),
        "lr x 0.3": (f"optim.lr={0.3 * lr}",),
        "momentum .998": ("target.momentum=[0.998,0.998]",),
        "random mask": ("mask={kind: random, ratio: [0.5, 0.5]}",),
        # What was left when time was short; the table says how many were made.
        "one step of warm-up, lr x 10": (f"optim.lr={10 * lr}", f"optim.start_lr={10 * lr}", "optim.warmup=1 steps"),
        "no mask, wide predictor, regularised": (hidden, f"predictor.dim={group.dim}"),
        "covariance x 30": (
            "objective.regularisers=[{kind: vicreg, weight: 30, covariance: 1}]", "objective.weight=0.03",
            "objective.pooled=0",
        ),
        "lr x 10": (f"optim.lr={10 * lr}",),
        "no target": ("target.kind=none", *BARE),
        "lr x 0.001": (f"optim.lr={lr / 1000}", f"optim.start_lr={lr / 1000}"),
        "batch 32": ("train.batch_size=32",),
        "shallow predictor": ("predictor.depth=1",),
    }  # fmt: skip
    if group.recipe != "ijepa-tiny":
        del found["blocks"]  # what it has as shipped
    return found


SEEDS = {"as shipped": (0, 1, 2)}
ESSENTIAL = 11  # the first so many cases


def identical(data: str, folder: Path, count: int = 1000) -> str:
    """A folder of one image, ``count`` times over."""
    source = next(path for path in sorted(Path(data).rglob("*")) if path.suffix in (".png", ".jpg"))
    for i in range(count):
        (folder / f"{i:04d}{source.suffix}").symlink_to(source.resolve())
    return str(folder)


def train(group: Group, case: str, seed: int, data: str, out: Path) -> str:
    """Make one run (again, where it was left); returns the error that ended it, or nothing."""
    import openjepa
    from openjepa.errors import OpenJepaError

    overrides = (*QUIET, *group.overrides, *cases(group)[case])
    with tempfile.TemporaryDirectory() as scratch:
        images = identical(data, Path(scratch)) if case == "identical images" else data
        try:
            result = openjepa.pretrain(
                images, group.recipe, overrides=overrides, steps=group.steps, seed=seed, out=out, overwrite=out.exists(),
                judge=False, report=False, console=False,
            )  # fmt: skip
        except OpenJepaError as error:
            return str(error)
    if not result.training.finished:
        raise SystemExit("interrupted: start again to go on")
    return ""


def measure(encoder, recipe, data: str, cache: Path) -> dict[str, float]:
    """Leave-one-out kNN and effective rank of an encoder's mean-pooled features of the labelled images."""
    import torch

    from openjepa.data import EvalTransform, Normalise, Subset, open_source
    from openjepa.evaluation import knn
    from openjepa.evaluation.labels import stratified
    from openjepa.features import cached_extract, rankme

    source = open_source(data, channels=recipe.data.channels)
    labels = torch.tensor([source.label(i) for i in range(len(source))])
    subset = Subset(source, stratified(labels, IMAGES, 0).tolist()) if len(source) > IMAGES else source
    look = {"normalise": Normalise.for_data(recipe.data), "cache_dir": cache}
    found = cached_extract(encoder, subset, EvalTransform(recipe.data), **look)
    if not bool(torch.isfinite(found.values).all()):
        return {"knn": 0.0, "rank": 0.0, "images": len(found)}
    return {"knn": knn(found, None, k=20).value, "rank": rankme(found.values), "images": len(found)}


def truth(out: Path, data: str, case: str) -> dict[str, object]:
    """Trained and initial encoder measured; ``sick`` and why. The rank is that of the images the run was trained on."""
    from openjepa import api

    model = api.load(out)
    recipe, cache = model.config, out.parent / "features"
    trained, start = (measure(which, recipe, data, cache) for which in (model.encoder, api.random_encoder(recipe)))
    if case == "identical images":
        with tempfile.TemporaryDirectory() as scratch:
            trained["rank"] = own_rank(model.encoder, recipe, identical(data, Path(scratch), 50))
    width = model.encoder.embed_dim
    reasons = []
    if trained["rank"] < 0.1 * width:
        reasons.append(f"effective rank {trained['rank']:.1f} of {width}")
    if trained["knn"] < start["knn"]:
        reasons.append(f"kNN {100 * trained['knn']:.1f} % below the initialisation's {100 * start['knn']:.1f} %")
    return {"trained": trained, "start": start, "width": width, "sick": bool(reasons), "why": reasons}


def own_rank(encoder, recipe, folder: str) -> float:
    """Effective rank of the features of a folder without labels."""
    from openjepa.data import EvalTransform, Normalise, open_source
    from openjepa.features import cached_extract, rankme

    source = open_source(folder, channels=recipe.data.channels)
    look = {"normalise": Normalise.for_data(recipe.data)}
    return rankme(cached_extract(encoder, source, EvalTransform(recipe.data), **look).values)


def rounded(value):
    """Numbers with five digits: what the doctor needs, and not more."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def make(name: str, data: str, runs: Path, only: list[str], every: bool) -> None:
    """Make and measure what is missing of a group."""
    from openjepa.config import load_recipe
    from openjepa.training import read_rows

    group, folder = GROUPS[name], RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    for case in list(cases(group))[: None if every else ESSENTIAL]:
        for seed in SEEDS.get(case, (0,)):
            label = f"{case.replace(' ', '-').replace(',', '').replace('.', '')}-s{seed}"
            if (folder / f"{label}.json").is_file() or (only and case not in only):
                continue
            began, out = time.time(), runs / name / label
            error = train(group, case, seed, data, out)
            trained = time.time()
            found = {
                "case": case, "seed": seed, "error": error, "truth": truth(out, data, case), "seconds": round(trained - began),
                "recipe": load_recipe(out / "config.yaml", ["data.source=none"]).model_dump(mode="json"),
                "rows": [{k: v for k, v in row.items() if k != "probes"} for row in read_rows(out / "metrics.jsonl")],
            }  # fmt: skip
            shutil.rmtree(out / "checkpoints", ignore_errors=True)
            (folder / f"{label}.json").write_text(json.dumps(rounded(found)) + "\n")
            said = found["truth"]
            print(
                f"{name} {label}: {said['sick']} {said['why']} kNN {100 * said['trained']['knn']:.1f} from "
                f"{100 * said['start']['knn']:.1f} rank {said['trained']['rank']:.1f} | {trained - began:.0f} s + "
                f"{time.time() - trained:.0f} s | {found['rows'][-1]['health']['verdict'][:60]} {error}",
                flush=True,
            )


def judged(name: str) -> list[dict]:
    """Every measured run of a group with what the doctor, and training's own verdict, say of it."""
    from openjepa.config import Recipe
    from openjepa.experiments.diagnose import diagnose
    from openjepa.training import judge as verdict

    found = []
    for path in sorted((RESULTS / name).glob("*.json")):
        run = json.loads(path.read_text())
        said = diagnose(run["rows"], Recipe.model_validate(run["recipe"]))
        found.append({**run, "said": said, "verdict": verdict(run["rows"])})
    return sorted(found, key=lambda run: (not run["truth"]["sick"], list(cases(GROUPS[name])).index(run["case"])))


def table(name: str) -> str:
    """Confusion table, then every run."""
    runs = judged(name)

    def count(said: bool, sick: bool) -> int:
        return sum((run["said"].verdict == "sick") == said and run["truth"]["sick"] == sick for run in runs)

    lines = [
        f"**{name}**, {len(runs)} runs", "", "| | measured sick | measured healthy |", "|---|---|---|",
        f"| doctor says sick | {count(True, True)} | {count(True, False)} |",
        f"| doctor says healthy | {count(False, True)} | {count(False, False)} |",
        "", "| run | kNN %, start → end | effective rank, start → end | measured | doctor | because |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for run in runs:
        truth, said = run["truth"], run["said"]
        start, end = truth["start"], truth["trained"]
        label = run["case"] + (f" (seed {run['seed']})" if run["seed"] else "")
        word = "sick" if truth["sick"] else "healthy"
        mark = "" if (said.verdict == "sick") == truth["sick"] else " **wrong**"
        because = ", ".join(f.name for f in said.findings if f.sick)
        lines.append(
            f"| {label} | {100 * start['knn']:.1f} → {100 * end['knn']:.1f} | {start['rank']:.0f} → {end['rank']:.0f} of "
            f"{truth['width']} | {word} | {said.verdict}{mark} | {because} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Make what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", nargs="?", choices=GROUPS)
    parser.add_argument("data", nargs="?", help="labelled folder: one folder per class")
    parser.add_argument("--runs", default="runs/doctor", help="where the runs go")
    parser.add_argument("--only", nargs="*", default=[], help="cases")
    parser.add_argument("--every", action="store_true", help="also the cases beyond the essential ones")
    parser.add_argument("--table", action="store_true", help="only the tables")
    args = parser.parse_args()
    if args.group and not args.table:
        make(args.group, args.data, Path(args.runs), args.only, args.every)
    for name in GROUPS:
        print(table(name) + "\n")


if __name__ == "__main__":
    main()
