"""Which of a run's checkpoints to keep, without labels; where labels exist, how far that choice can be trusted.

Every kept checkpoint is measured anew, all on the same images. A measure's *agreement* is the rank correlation of its order
with the kNN probe's over the checkpoints; its *regret* is what the probe loses by following it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openjepa.config import Recipe
from openjepa.data import Source, Subset, eval_transform, read_batches
from openjepa.data.sources import labels_of
from openjepa.data.splits import open_splits
from openjepa.errors import ConfigError, DataError, RunError, nearest
from openjepa.evaluation import knn
from openjepa.evaluation.labels import stratified
from openjepa.experiments.agreement import kendall, ranks, spearman
from openjepa.features import Features, alpha_req, extract, input_of, rankme
from openjepa.hub.checkpoint import list_checkpoints
from openjepa.hub.model_directory import load_model
from openjepa.model import Model
from openjepa.training import read_rows, read_run
from openjepa.training.depth import view_lidar
from openjepa.training.run import CHECKPOINTS, METRICS

IMAGES = 512  # the measures are taken on so many training images
PROBE_IMAGES = 2000  # the probe, leave-one-out, on so many held-out images at most
FEWEST = 3  # checkpoints without which a correlation says nothing
# How a number becomes "larger is better".
MEASURES: Mapping[str, Any] = {
    "rankme": lambda value: value,
    "lidar": lambda value: value,
    "alpha": lambda value: -abs(value - 1),
    "loss": lambda value: -value,
    "latest": lambda value: value,
}
VOTERS = ("rankme", "lidar", "alpha")
CONSENSUS = "consensus"


@dataclass(frozen=True)
class Candidate:
    """One checkpoint. numbers: measure to value (NaN where it cannot be measured). probe: kNN accuracy, with labels."""

    step: int
    path: str
    numbers: Mapping[str, float]
    probe: float | None = None


@dataclass(frozen=True)
class Agreement:
    """How a measure's order fits the probe's over ``n`` checkpoints.

    chosen: step it would keep. regret: probe of the best checkpoint minus that of the chosen one, a share.
    """

    measure: str
    chosen: int
    n: int
    spearman: float | None = None
    kendall: float | None = None
    regret: float | None = None


@dataclass(frozen=True)
class Choice:
    """What :func:`choose_checkpoint` says. candidates: oldest first. agreements: one per measure. why_no_probe: in words."""

    run: str
    by: str
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    agreements: tuple[Agreement, ...]
    why_no_probe: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what is not a number is null."""
        return {
            "run": self.run,
            "by": self.by,
            "chosen": {"step": self.chosen.step, "path": self.chosen.path},
            "candidates": [
                {"step": c.step, "path": c.path, "probe": c.probe, **{k: _plain(v) for k, v in c.numbers.items()}}
                for c in self.candidates
            ],
            "agreements": [{k: _plain(v) for k, v in vars(a).items()} for a in self.agreements],
            "why_no_probe": self.why_no_probe,
        }


def choose_checkpoint(run: str | Path, *, by: str = CONSENSUS, labels: bool = True, device: str = "cpu") -> Choice:
    """Measure every kept checkpoint of a run and name the one to keep.

    Args:
        run: run directory with its ``checkpoints/``; its data must still be where the recipe says.
        by: measure that decides: ``rankme``, ``lidar`` (the largest), ``alpha`` (nearest 1), ``loss`` (the lowest; on the
            panel), ``latest``, or ``consensus``: the best mean place under RankMe, LiDAR and α-ReQ.
        labels: where the held-out images have labels, also probe every checkpoint and say how well each measure agreed.
            The probe never takes part in the choice.
        device: where features are computed.

    Raises:
        RunError: no run, or fewer than two checkpoints in it. ConfigError: an unknown measure. DataError: the run's
        images cannot be read. CheckpointError: a checkpoint is damaged.
    """
    names = (*MEASURES, CONSENSUS)
    if by not in names:
        raise ConfigError(f"no measure '{by}'{nearest(by, names)}: choose from {', '.join(names)}")
    info = read_run(run)
    paths = list_checkpoints(info.path / CHECKPOINTS)
    if len(paths) < 2:
        raise RunError(
            f"'{run}' keeps {len(paths)} checkpoint{'s' if len(paths) != 1 else ''}, so there is nothing to choose: "
            "train with checkpoint.keep_every='10 %'"
        )
    splits = open_splits(info.recipe)
    images = _panel_images(info.recipe, splits.train)
    probe, why = _probe_source(splits.held_out) if labels else (None, "labels were not asked for")
    losses = _losses(info.path)
    candidates = []
    for path in paths:
        step = int(path.name.partition("-")[2])
        model = Model(load_model(path))
        numbers = {**_measure(model, images, device), "loss": _nearest_loss(losses, step), "latest": float(step)}
        score = None if probe is None else _knn(model, probe, device)
        candidates.append(Candidate(step, str(path), numbers, score))
    places = {name: standing(candidates, name) for name in names}
    chosen = candidates[_best(places[by])]
    agreements = tuple(_agreement(name, places[name], candidates) for name in names)
    return Choice(str(info.path), by, chosen, tuple(candidates), agreements, why)


def standing(candidates: list[Candidate], by: str) -> list[float]:
    """One number per candidate, larger is better; −inf where the measure is no number."""
    if by == CONSENSUS:
        votes = [ranks(standing(candidates, voter)) for voter in VOTERS]
        return [sum(places) / len(votes) for places in zip(*votes, strict=True)]
    found = [MEASURES[by](candidate.numbers[by]) for candidate in candidates]
    return [value if math.isfinite(value) else -math.inf for value in found]


def _best(places: list[float]) -> int:
    """Index of the largest; the newest of equals."""
    return max(range(len(places)), key=lambda i: (places[i], i))


def _agreement(name: str, places: list[float], candidates: list[Candidate]) -> Agreement:
    chosen = candidates[_best(places)]
    probes = [c.probe for c in candidates if c.probe is not None]
    if len(probes) < len(candidates):
        return Agreement(name, chosen.step, len(candidates))
    regret = max(probes) - probes[candidates.index(chosen)]
    if len(candidates) < FEWEST:
        return Agreement(name, chosen.step, len(candidates), regret=regret)
    return Agreement(name, chosen.step, len(candidates), spearman(places, probes), kendall(places, probes), regret)


def _panel_images(recipe: Recipe, source: Source) -> Tensor:
    """Evaluation samples spread evenly over the training data, ``(N, C, H, W)`` or clips, as the transform leaves them."""
    count = min(IMAGES, len(source))
    picked = Subset(source, [len(source) * i // count for i in range(count)])
    transform = eval_transform(recipe.data)
    batches = [input_of(batch) for batch in read_batches(picked, transform, batch_size=64, workers=0, bad={})]
    if not batches or sum(map(len, batches)) < 2:
        raise DataError(f"fewer than two of {count} sampled images of {source.name} can be read")
    return torch.cat(batches)


def _measure(model: Model, images: Tensor, device: str) -> dict[str, float]:
    """RankMe, LiDAR and α-ReQ of the deployed encoder on ``images``; NaN where its features are not finite."""
    encoder, normalise = model.encoder.to(device).eval(), model.normalise.to(device)
    with torch.no_grad():
        pooled = torch.cat(
            [
                encoder.forward_features(normalise(part.to(device))).float().mean(dim=1).cpu()
                for part in images.split(64)
            ]
        )
        views = view_lidar(encoder, normalise(images.to(device)))
    if not bool(torch.isfinite(pooled).all()):
        return dict.fromkeys(VOTERS, math.nan)
    return {"rankme": rankme(pooled), "lidar": views, "alpha": alpha_req(pooled)}


def _probe_source(held_out: Source) -> tuple[Source | None, str]:
    """At most :data:`PROBE_IMAGES` labelled held-out images, classes in proportion; or why there are none."""
    labels = torch.tensor(labels_of(held_out), dtype=torch.int64)
    labelled = (labels >= 0).nonzero().flatten()
    if len(labelled) < 2 or len(set(labels[labelled].tolist())) < 2:
        return None, f"{held_out.name} has no labels of two classes: nothing to compare the measures with"
    return Subset(held_out, labelled[stratified(labels[labelled], PROBE_IMAGES, 0)].tolist()), ""


def _knn(model: Model, source: Source, device: str) -> float:
    """Leave-one-out kNN accuracy; 0 where features are not finite."""
    batches = read_batches(source, model.transform, batch_size=64, workers=0, bad={})
    found: Features = extract(model.encoder, batches, normalise=model.normalise, device=device, source=source)
    return knn(found, None).value if bool(torch.isfinite(found.values).all()) else 0.0


def _losses(run: Path) -> list[tuple[int, float]]:
    """Step and loss on the panel (the training loss where a method has none there) of every row after the first."""
    found = []
    for row in read_rows(run / METRICS):
        value = row.get("health", {}).get("loss_on_panel")
        value = row.get("loss") if value is None else value
        if row["step"] > 0 and value is not None:
            found.append((int(row["step"]), float(value)))
    return found


def _nearest_loss(losses: list[tuple[int, float]], step: int) -> float:
    """Loss of the row nearest to ``step``; NaN where no row has one."""
    return min(losses, key=lambda pair: abs(pair[0] - step))[1] if losses else math.nan


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
