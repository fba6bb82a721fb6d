"""Fine-tuning with layer-wise learning-rate decay: how good a starting point the encoder is, and a classifier to keep."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from openjepa.config.schema import AugmentConfig, DataConfig
from openjepa.data import ClipTransform, Source, TrainTransform, labels_of, read_batches
from openjepa.errors import ConfigError
from openjepa.evaluation.choice import HELD_OUT, Outcome, best, hold_out
from openjepa.evaluation.heads import OnEpoch
from openjepa.evaluation.labels import align, score_of
from openjepa.evaluation.layerwise import blocks_of
from openjepa.evaluation.linear_grid import grid_from, with_grid
from openjepa.evaluation.lora import merge_lora
from openjepa.evaluation.request import Bench, Request
from openjepa.evaluation.request import Side as SideName
from openjepa.evaluation.score import Score
from openjepa.evaluation.tokens import names_only
from openjepa.evaluation.tuning import Keeping, Side, Tuned, state_of, train, uses_bf16
from openjepa.features import input_of, views_of
from openjepa.features.clips import describe_source

log = logging.getLogger(__name__)

NAME = "finetune"
Tune = Literal["full", "last-n", "lora"]


@dataclass(frozen=True)
class FineTune:
    """How an encoder is fine-tuned.

    lrs: peak learning rates of the head for the given batch (not scaled by it); several are each tried on four fifths of
    train, and the held-out fifth chooses. tune: ``full``, the last ``blocks`` blocks with what follows them (``last-n``), or
    ``lora``: low-rank changes of every linear layer of the blocks, rank ``lora_rank``, scaled by ``lora_alpha``/rank (None:
    1). layer_decay: rate of block i is lr · decay^(L + 1 − i); None: .75, and 1 where most is frozen. drop_path: of the last
    block, linear over depth; None: .1 where the blocks have it, 0 with LoRA. head: ``mean`` of the patch tokens or the ``class`` token.
    warmup: share of the steps. clip: largest gradient norm. augment: the random transforms of a training image, as in a
    recipe's ``data.augment``. precision: ``auto`` is bf16 where the hardware multiplies it. keep: where the
    state is kept and who takes the classifier; None: it is only scored.
    """

    lrs: tuple[float, ...] = (1e-3,)
    epochs: float = 30
    batch_size: int = 128
    tune: Tune = "full"
    blocks: int = 2
    lora_rank: int = 8
    lora_alpha: float | None = None
    layer_decay: float | None = None
    weight_decay: float = 0.05
    drop_path: float | None = None
    label_smoothing: float = 0.1
    warmup: float = 0.1
    clip: float | None = 1.0
    head: Literal["mean", "class"] = "mean"
    augment: Mapping[str, Any] = field(default_factory=lambda: {"crop_scale": (0.35, 1.0)})
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    keep: Keeping | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.lrs or any(not (math.isfinite(lr) and lr > 0) for lr in self.lrs):
            raise ConfigError(f"{NAME} needs learning rates above 0, got {list(self.lrs)}")
        bounds = (
            ("epochs", 0 < self.epochs < math.inf),
            ("batch_size", self.batch_size >= 1),
            ("tune", self.tune in get_args(Tune)),
            ("blocks", self.blocks >= 1),
            ("lora_rank", self.lora_rank >= 1),
            ("lora_alpha", self.lora_alpha is None or self.lora_alpha > 0),
            ("layer_decay", self.layer_decay is None or 0 < self.layer_decay <= 1),
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

    @property
    def decay(self) -> float:
        """The layer-wise decay: as given, else .75 where everything learns and 1 where most is frozen."""
        return self.layer_decay if self.layer_decay is not None else 0.75 if self.tune == "full" else 1.0

    def plain(self) -> dict[str, Any]:
        """What the numbers depend on, but the learning rates, JSON-ready."""
        found = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("lrs", "keep")}
        return json.loads(json.dumps({**found, "augment": dict(self.augment)}))

    def augmentation(self) -> AugmentConfig:
        """The random transforms, checked."""
        known = AugmentConfig.model_fields
        for key in self.augment:
            if key not in known:
                raise ConfigError(f"{NAME}: augment has no '{key}': {', '.join(known)}")
        return AugmentConfig(**dict(self.augment))


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
    blocks_of(bench.encoder)
    transform = _augmented(bench, config)
    data = align(names_only(bench.train_source), names_only(bench.val_source))
    fit_side, val = _side(bench.train_source, data.y), _side(bench.val_source, data.val_y)
    fitted, held = hold_out(data.y, seed) if len(config.lrs) > 1 else (torch.arange(len(data.y)), None)
    tried, on_val, predictions, models, labels = [], [], [], [], data.val_y
    rows = fit_side.rows(fitted)
    for lr in config.lrs:
        state = state_of(bench, rows, data.classes, config, lr, seed, subject)
        model, rate = train(bench, rows, len(data.classes), config, lr, seed, transform, state, on_epoch)
        merge_lora(model)
        if held is not None:
            tried.append(Outcome.of(*_predict(model, bench, fit_side.rows(held))))
        logits, labels = _predict(model, bench, val, "val")
        on_val.append(Outcome.of(logits, labels))
        predictions.append(logits.argmax(1))
        models.append(model if config.keep is not None else None)
        log.info("%s: lr %g gives %.1f %% on val", NAME, lr, 100 * on_val[-1].accuracy)
    chosen = best(tried or on_val, [(lr, 0.0) for lr in config.lrs])
    data = replace(data, y=data.y[fitted], val_y=labels)
    protocol = _protocol(bench, config, config.lrs[chosen], rate, tried[chosen] if tried else None)
    score = score_of(NAME, predictions[chosen], data, protocol=protocol, seed=seed, subject=subject)
    if held is not None:
        score = with_grid(score, [outcome.accuracy for outcome in on_val], sum(o.diverged for o in tried))
    kept = models[chosen]
    if config.keep is not None and kept is not None:
        config.keep.receive(subject, kept, data.classes, score)
    return score


def run(request: Request) -> list[Score]:
    """The evaluator; ``Settings.options["finetune"]`` may set every field of :class:`FineTune`."""
    config = grid_from(FineTune, NAME, request.settings.options.get(NAME, {}))
    about: dict[str, Any] = {"seed": request.settings.seed, "subject": request.subject, "on_epoch": request.on_epoch}
    return [finetune(request.place, config, **about)]


def _side(source: Source, y: Tensor) -> Side:
    return Side(source, (torch.tensor(labels_of(source)) >= 0).nonzero().flatten(), y)


@torch.no_grad()
def _predict(model: Tuned, bench: Bench, side: Side, which: SideName = "train") -> tuple[Tensor, Tensor]:
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


def _protocol(bench: Bench, config: FineTune, lr: float, rate: float, held: Outcome | None) -> dict[str, object]:
    several = len(config.lrs) > 1
    return {
        "trained": _trained(config),
        "head": config.head,
        "lr": lr,
        "grid": f"{len(config.lrs)} lr" if several else None,
        "layer_decay": config.decay,
        "weight_decay": config.weight_decay,
        "drop_path": rate,
        "label_smoothing": config.label_smoothing,
        "epochs": config.epochs,
        "batch": config.batch_size,
        "training": "bf16" if uses_bf16(config, torch.device(bench.device)) else "fp32",
        "augment": ", ".join(f"{key}={value}" for key, value in config.augment.items()),
        "chosen_on": f"held-out {HELD_OUT:.0%} of train" if several else "given",
        "held_out_accuracy": None if held is None else held.accuracy,
        "refit": "no" if several else None,
    }


def _trained(config: FineTune) -> str:
    """What learned, in words."""
    if config.tune == "last-n":
        return f"the last {config.blocks} blocks"
    return "end to end" if config.tune == "full" else f"LoRA of rank {config.lora_rank}"
