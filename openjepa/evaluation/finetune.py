"""End-to-end fine-tuning with layer-wise learning-rate decay: how good a starting point the encoder is."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjepa.config.schema import AugmentConfig, DataConfig
from openjepa.data import ClipTransform, Loader, Sampler, Source, Subset, TrainTransform, labels_of, read_batches
from openjepa.data.sources import with_clips
from openjepa.errors import ConfigError
from openjepa.evaluation.choice import HELD_OUT, Outcome, best, hold_out
from openjepa.evaluation.heads import OnEpoch, multiplies_bf16
from openjepa.evaluation.labels import align, score_of
from openjepa.evaluation.layerwise import blocks_of, layer_groups, set_drop_path
from openjepa.evaluation.linear_grid import grid_from, with_grid
from openjepa.evaluation.request import Bench, Request, Side
from openjepa.evaluation.score import Score
from openjepa.evaluation.tokens import names_only
from openjepa.features import input_of, views_of
from openjepa.features.clips import clips_of, describe_source

log = logging.getLogger(__name__)

NAME = "finetune"


@dataclass(frozen=True)
class FineTune:
    """How an encoder is fine-tuned.

    lrs: peak learning rates of the head for the given batch (not scaled by it); several are each tried on four fifths of
    train, and the held-out fifth chooses. layer_decay: rate of block i is lr · decay^(L + 1 − i). drop_path: of the last
    block, linear over depth; None: .1 where the blocks have it. head: ``mean`` of the patch tokens or the ``class`` token.
    warmup: share of the steps. clip: largest gradient norm. augment: the random transforms of a training image, as in a
    recipe's ``data.augment``. precision: ``auto`` is bf16 where the hardware multiplies it.
    """

    lrs: tuple[float, ...] = (1e-3,)
    epochs: float = 30
    batch_size: int = 128
    layer_decay: float = 0.75
    weight_decay: float = 0.05
    drop_path: float | None = None
    label_smoothing: float = 0.1
    warmup: float = 0.1
    clip: float | None = 1.0
    head: Literal["mean", "class"] = "mean"
    augment: Mapping[str, Any] = field(default_factory=lambda: {"crop_scale": (0.35, 1.0)})
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        if not self.lrs or any(not (math.isfinite(lr) and lr > 0) for lr in self.lrs):
            raise ConfigError(f"{NAME} needs learning rates above 0, got {list(self.lrs)}")
        bounds = (
            ("epochs", 0 < self.epochs < math.inf),
            ("batch_size", self.batch_size >= 1),
            ("layer_decay", 0 < self.layer_decay <= 1),
            ("weight_decay", self.weight_decay >= 0),
            ("label_smoothing", 0 <= self.label_smoothing < 1),
            ("warmup", 0 <= self.warmup < 1),
            ("clip", self.clip is None or self.clip > 0),
            ("head", self.head in ("mean", "class")),
            ("precision", self.precision in ("auto", "fp32", "bf16")),
        )
        for name, good in bounds:
            if not good:
                raise ConfigError(f"{NAME}: {name} cannot be {getattr(self, name)!r}")

    def augmentation(self) -> AugmentConfig:
        """The random transforms, checked."""
        known = AugmentConfig.model_fields
        for key in self.augment:
            if key not in known:
                raise ConfigError(f"{NAME}: augment has no '{key}': {', '.join(known)}")
        return AugmentConfig(**dict(self.augment))


class Tuned(nn.Module):
    """An encoder and a linear head on one vector of it."""

    def __init__(self, encoder: Any, classes: int, head: Literal["mean", "class"]) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, head
        self.head = nn.Linear(encoder.embed_dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        if head == "class" and not getattr(encoder, "num_prefix_tokens", 0):
            raise ConfigError(f"{type(encoder).__name__} gives no class token: use head 'mean'")

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images ``(B, C, H, W)`` → logits ``(B, classes)``."""
        if self.pooling == "class":
            return self.head(self.encoder.forward_features(images, prefix=True)[:, 0])
        return self.head(self.encoder.forward_features(images).mean(1))


def finetune(
    bench: Bench,
    config: FineTune | None = None,
    *,
    seed: int = 0,
    subject: str = "encoder",
    on_epoch: OnEpoch | None = None,
) -> Score:
    """Accuracy on val after training a copy of the encoder and a head on train; the encoder given is left as it is.

    One learning rate: all of train is used and nothing is chosen. Several: see :class:`FineTune`; the score is the chosen
    one as trained on four fifths, ``grid_max`` the best of all on val (optimistic).

    Raises:
        ConfigError: an encoder without blocks, a class token it has not, or a setting that cannot be.
        DataError: labels that do not allow a score. TrainingError: every learning rate diverged.
    """
    config = config or FineTune()
    data = align(names_only(bench.train_source), names_only(bench.val_source))
    train, val = _side(bench.train_source, data.y), _side(bench.val_source, data.val_y)
    fitted, held = hold_out(data.y, seed) if len(config.lrs) > 1 else (torch.arange(len(data.y)), None)
    tried, on_val, predictions, labels = [], [], [], data.val_y
    for lr in config.lrs:
        model, rate = _train(bench, train.rows(fitted), len(data.classes), config, lr, seed, on_epoch)
        if held is not None:
            tried.append(Outcome.of(*_predict(model, bench, train.rows(held))))
        logits, labels = _predict(model, bench, val, "val")
        on_val.append(Outcome.of(logits, labels))
        predictions.append(logits.argmax(1))
        log.info("%s: lr %g gives %.1f %% on val", NAME, lr, 100 * on_val[-1].accuracy)
    chosen = best(tried or on_val, [(lr, 0.0) for lr in config.lrs])
    data = replace(data, y=data.y[fitted], val_y=labels)
    protocol = _protocol(bench, config, config.lrs[chosen], rate, tried[chosen] if tried else None)
    score = score_of(NAME, predictions[chosen], data, protocol=protocol, seed=seed, subject=subject)
    if held is None:
        return score
    return with_grid(score, [outcome.accuracy for outcome in on_val], sum(o.diverged for o in tried))


def run(request: Request) -> list[Score]:
    """The evaluator; ``Settings.options["finetune"]`` may set every field of :class:`FineTune`."""
    config = grid_from(FineTune, NAME, request.settings.options.get(NAME, {}))
    about: dict[str, Any] = {"seed": request.settings.seed, "subject": request.subject, "on_epoch": request.on_epoch}
    return [finetune(request.place, config, **about)]


@dataclass(frozen=True)
class _Side:
    """Labelled samples of a source. places, y: ``(N,)`` index in the source and class."""

    source: Source
    places: Tensor
    y: Tensor

    def rows(self, index: Tensor) -> _Side:
        """The samples ``index`` names."""
        return _Side(self.source, self.places[index], self.y[index])

    def subset(self) -> Source:
        """As a source; its index is the row here."""
        return Subset(self.source, self.places.tolist())


def _side(source: Source, y: Tensor) -> _Side:
    return _Side(source, (torch.tensor(labels_of(source)) >= 0).nonzero().flatten(), y)


def _train(
    bench: Bench, side: _Side, classes: int, config: FineTune, lr: float, seed: int, on_epoch: OnEpoch | None
) -> tuple[Tuned, float]:
    """A tuned copy of the bench's encoder, and the stochastic depth it was trained with."""
    device = torch.device(bench.device)
    blocks_of(bench.encoder)
    transform = _augmented(bench, config)
    batch_size = min(config.batch_size, len(side.y))
    sampler = Sampler(len(side.y), batch_size, seed)
    total = max(round(config.epochs * sampler.steps_per_epoch), 1)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = Tuned(copy.deepcopy(bench.encoder), classes, config.head).requires_grad_(True).to(device).train()
        rate = set_drop_path(blocks_of(model.encoder), config.drop_path)
        groups = layer_groups(model.encoder, model.head, lr, config.layer_decay, config.weight_decay)
        optimizer = torch.optim.AdamW(groups, fused=device.type in ("cpu", "cuda"))
        loader = Loader(
            _anywhere(side.subset()),
            transform,
            sampler,
            workers=bench.workers,
            seed=seed,
            max_bad_share=1.0,
            total_steps=total,
        )
        with loader:
            for step, batch in enumerate(loader):
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * _share(step, total, config.warmup)
                images = bench.normalise(input_of(batch).to(device))
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=_uses_bf16(config, device)):
                    logits = model(images)
                loss = F.cross_entropy(
                    logits.float(), side.y[batch.ids].to(device), label_smoothing=config.label_smoothing
                )
                optimizer.zero_grad()
                loss.backward()
                if config.clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), config.clip)
                optimizer.step()
                _tell(step, total, sampler.steps_per_epoch, float(loss.detach()), on_epoch)
    return model.eval(), rate


def _anywhere(source: Source) -> Source:
    """Videos in clips from a random place, as pretraining takes them; images as they are."""
    clips = clips_of(source)
    return source if clips is None else with_clips(source, replace(clips, where="random", count=1))


def _tell(step: int, total: int, per_epoch: int, loss: float, on_epoch: OnEpoch | None) -> None:
    """Say once an epoch how far training is."""
    if (step + 1) % per_epoch == 0 or step + 1 == total:
        done, epochs = math.ceil((step + 1) / per_epoch), math.ceil(total / per_epoch)
        log.info("%s: epoch %d of %d, loss %.3f", NAME, done, epochs, loss)
        if on_epoch is not None:
            on_epoch(done, epochs)


@torch.no_grad()
def _predict(model: Tuned, bench: Bench, side: _Side, which: Side = "train") -> tuple[Tensor, Tensor]:
    """Logits ``(n, K)`` and labels ``(n,)`` of the readable samples, evaluation transform; views of a video averaged."""
    transform = bench.side(which)[1]
    logits, labels = [], []
    for batch in read_batches(side.subset(), transform, batch_size=bench.batch_size, workers=bench.workers):
        parts = [model(bench.normalise(view.to(bench.device))).float().cpu() for view in views_of(input_of(batch))]
        logits.append(torch.stack(parts).softmax(-1).mean(0).log() if len(parts) > 1 else parts[0])
        labels.append(side.y[batch.ids])
    return torch.cat(logits), torch.cat(labels)


def _augmented(bench: Bench, config: FineTune) -> Callable[[Tensor], Any]:
    """Random crops of the size and with the filter of the evaluation transform, alike in all frames of a clip."""
    size, mode = getattr(bench.transform, "size", None), getattr(bench.transform, "mode", "bilinear")
    if size is None:
        raise ConfigError(
            f"{NAME} needs an evaluation transform with a size, {type(bench.transform).__name__} has none"
        )
    channels = int(getattr(bench.encoder, "channels", 3))
    filters: dict[str, Literal["bilinear", "bicubic"]] = {"bilinear": "bilinear", "bicubic": "bicubic"}
    data = DataConfig(
        image_size=tuple(size),
        channels=channels,
        interpolation=filters.get(mode, "bilinear"),
        augment=config.augmentation(),
    )
    clips = describe_source(bench.train_source)
    if not clips:
        return TrainTransform(data)
    if clips["segments"] > 1:
        raise ConfigError(f"{NAME} trains on one clip per video: leave --clips at 1")
    return ClipTransform(data)


def _share(step: int, total: int, warmup: float) -> float:
    """Share of the peak rate: linear from 0 over the warm-up, then cosine to 0."""
    rising = max(round(warmup * total), 0)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(total - rising, 1)))


def _uses_bf16(config: FineTune, device: torch.device) -> bool:
    return config.precision == "bf16" or (config.precision == "auto" and multiplies_bf16(device))


def _protocol(bench: Bench, config: FineTune, lr: float, rate: float, held: Outcome | None) -> dict[str, object]:
    several = len(config.lrs) > 1
    return {
        "trained": "end to end",
        "head": config.head,
        "lr": lr,
        "grid": f"{len(config.lrs)} lr" if several else None,
        "layer_decay": config.layer_decay,
        "weight_decay": config.weight_decay,
        "drop_path": rate,
        "label_smoothing": config.label_smoothing,
        "epochs": config.epochs,
        "batch": config.batch_size,
        "training": "bf16" if _uses_bf16(config, torch.device(bench.device)) else "fp32",
        "augment": ", ".join(f"{key}={value}" for key, value in config.augment.items()),
        "chosen_on": f"held-out {HELD_OUT:.0%} of train" if several else "given",
        "held_out_accuracy": None if held is None else held.accuracy,
        "refit": "no" if several else None,
    }
