"""The training of a classifier from an encoder: what learns, the loop, and its state on disk."""

from __future__ import annotations

import copy
import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjepa.data import Loader, Sampler, Source, Subset
from openjepa.data.sources import with_clips
from openjepa.errors import CheckpointError, ConfigError, RunError
from openjepa.evaluation.heads import OnEpoch, multiplies_bf16
from openjepa.evaluation.layerwise import blocks_of, depth_of_parameters, layer_groups, set_drop_path
from openjepa.evaluation.lora import add_lora
from openjepa.evaluation.request import Bench
from openjepa.evaluation.score import Score
from openjepa.features import input_of
from openjepa.features.clips import clips_of
from openjepa.features.store import weights_hash
from openjepa.hub.checkpoint import list_checkpoints, load_last, save_checkpoint
from openjepa.models.linear_head import LinearHead, Pooling

if TYPE_CHECKING:
    from openjepa.evaluation.finetune import FineTune

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
SAVE_EVERY = 300.0  # seconds; and at the end of every epoch, as long as
COST = 0.05  # saving takes no more than this share of the time


class Tuned(nn.Module):
    """An encoder and a linear head on one vector of it."""

    def __init__(self, encoder: Any, classes: int, head: Pooling) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = LinearHead(encoder.embed_dim, classes, head)
        if head == "class" and not getattr(encoder, "num_prefix_tokens", 0):
            raise ConfigError(f"{type(encoder).__name__} gives no class token: use head 'mean'")

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images ``(B, C, H, W)`` → logits ``(B, classes)``."""
        if self.head.prefix:
            return self.head(self.encoder.forward_features(images, prefix=True))
        return self.head(self.encoder.forward_features(images))


@dataclass(frozen=True)
class Keeping:
    """Where a fine-tuning keeps its state, and who takes what it made.

    place: directory of checkpoints, one below it for each subject and learning rate; a training that was cut off goes on
    from the newest. receive: called with the subject, the classifier (the chosen one), its classes and its score.
    """

    place: Path
    receive: Callable[[str, Tuned, tuple[str, ...], Score], None]


@dataclass(frozen=True)
class Side:
    """Labelled samples of a source. places, y: ``(N,)`` index in the source and class."""

    source: Source
    places: Tensor
    y: Tensor

    def rows(self, index: Tensor) -> Side:
        """The samples ``index`` names."""
        return Side(self.source, self.places[index], self.y[index])

    def subset(self) -> Source:
        """As a source; its index is the row here."""
        return Subset(self.source, self.places.tolist())


class State:
    """Checkpoints of one training, in ``root``; None keeps nothing.

    settings: what a training must have in common with the one it goes on from.
    """

    def __init__(self, root: Path | None, settings: Mapping[str, Any]) -> None:
        self.root, self.settings = root, dict(settings)
        self._saved, self._cost = time.monotonic(), 0.0

    def restore(self, model: Tuned, optimizer: torch.optim.Optimizer) -> tuple[int, Mapping[str, Tensor]]:
        """Steps that are done, and the generators' states to go on from (empty at the beginning).

        Raises:
            RunError: it was begun with other settings. CheckpointError: what it saved is damaged.
        """
        if self.root is None or not list_checkpoints(self.root):
            return 0, {}
        found = load_last(self.root)
        for key, value in self.settings.items():
            before = found.states["settings"].get(key)
            if before != value:
                raise RunError(
                    f"'{self.root}' was begun with {key} {before}, now it is {value}: use --overwrite or another --out"
                )
        learning = dict(_learning(model))
        saved = found.tensors["model"]
        if saved.keys() != learning.keys():
            raise CheckpointError(f"'{found.path}' holds other weights than those that learn")
        with torch.no_grad():
            for name, parameter in learning.items():
                parameter.copy_(saved[name])
        optimizer.load_state_dict(found.states["optimizer"])
        log.info("goes on after step %d", found.step)
        return found.step, found.tensors["generators"]

    def keep(
        self, step: int, model: Tuned, optimizer: torch.optim.Optimizer, at: Literal["step", "epoch", "end"]
    ) -> None:
        """Save at the end, and when it is time: at an epoch's end sooner than in its middle."""
        begun = time.monotonic()
        due = {"step": SAVE_EVERY, "epoch": min(self._cost / COST, SAVE_EVERY) if COST else 0.0, "end": 0.0}
        if self.root is None or begun - self._saved < due[at]:
            return
        generators = {"cpu": torch.get_rng_state()}
        if next(model.parameters()).device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state()
        save_checkpoint(
            self.root,
            step,
            tensors={"model": {name: p.detach() for name, p in _learning(model)}, "generators": generators},
            states={"optimizer": optimizer.state_dict(), "settings": self.settings},
            keep=1,
        )
        self._saved = time.monotonic()
        self._cost = self._saved - begun


def state_of(
    bench: Bench, side: Side, classes: Sequence[str], config: FineTune, lr: float, seed: int, subject: str
) -> State:
    """Where this training keeps its state, and what must be the same when it goes on."""
    if config.keep is None:
        return State(None, {})
    place = config.keep.place / re.sub(r"[^\w.-]+", "-", subject) / f"lr-{lr:g}"
    settings = {
        **config.plain(),
        "lr": lr,
        "seed": seed,
        "classes": list(classes),
        "samples": len(side.y),
        "data": side.source.fingerprint(),
        "transform": repr(bench.transform),
        "encoder": weights_hash(bench.encoder) if isinstance(bench.encoder, nn.Module) else "",
    }
    return State(place, settings)


def train(
    bench: Bench,
    side: Side,
    classes: int,
    config: FineTune,
    lr: float,
    seed: int,
    transform: Callable[[Tensor], Any],
    state: State,
    on_epoch: OnEpoch | None,
) -> tuple[Tuned, float]:
    """A tuned copy of the bench's encoder, and the stochastic depth it was trained with."""
    device = torch.device(bench.device)
    batch_size = min(config.batch_size, len(side.y))
    sampler = Sampler(len(side.y), batch_size, seed)
    total = max(round(config.epochs * sampler.steps_per_epoch), 1)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = Tuned(copy.deepcopy(bench.encoder), classes, config.head).requires_grad_(True)
        rate = choose_what_learns(model, config)
        model = model.to(device).train()
        groups = layer_groups(model.encoder, model.head, lr, config.decay, config.weight_decay)
        optimizer = torch.optim.AdamW(groups, fused=device.type in ("cpu", "cuda"))
        start, generators = state.restore(model, optimizer)
        loader = Loader(
            _anywhere(side.subset()),
            transform,
            sampler,
            workers=bench.workers,
            seed=seed,
            max_bad_share=1.0,
            start_step=start,
            total_steps=total,
        )
        with loader:
            for step, batch in enumerate(loader, start):
                if step == start:
                    _set_generators(generators)
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * share(step, total, config.warmup)
                images = bench.normalise(input_of(batch).to(device))
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bf16(config, device)):
                    logits = model(images)
                loss = F.cross_entropy(
                    logits.float(), side.y[batch.ids].to(device), label_smoothing=config.label_smoothing
                )
                optimizer.zero_grad()
                loss.backward()
                if config.clip is not None:
                    nn.utils.clip_grad_norm_([p for _, p in _learning(model)], config.clip)
                optimizer.step()
                ends, epoch_ends = step + 1 == total, (step + 1) % sampler.steps_per_epoch == 0
                state.keep(step + 1, model, optimizer, "end" if ends else "epoch" if epoch_ends else "step")
                if epoch_ends or ends:
                    _tell(step, total, sampler.steps_per_epoch, float(loss.detach()), on_epoch)
    return model.eval(), rate


def choose_what_learns(model: Tuned, config: FineTune) -> float:
    """Freeze what does not learn, add what does; returns the stochastic depth of the last block.

    Raises:
        ConfigError: more blocks are to learn than there are, or blocks without linear layers.
    """
    blocks = blocks_of(model.encoder)
    if config.tune == "full":
        return set_drop_path(blocks, config.drop_path)
    model.encoder.requires_grad_(False)
    if config.tune == "lora":
        rate = set_drop_path(blocks, config.drop_path or 0.0)
        if not add_lora(blocks, config.lora_rank, config.lora_alpha or config.lora_rank):
            raise ConfigError(f"{type(blocks[0]).__name__} has no linear layers for LoRA: use --tune full or last-n")
        return rate
    if config.blocks > len(blocks):
        raise ConfigError(f"--blocks {config.blocks} is more than the encoder's {len(blocks)} blocks")
    first = len(blocks) - config.blocks
    depths = depth_of_parameters(model.encoder, blocks)
    for name, parameter in model.encoder.named_parameters():
        parameter.requires_grad_(depths[name] > first)
    rate = set_drop_path(blocks, config.drop_path)
    if first:
        set_drop_path(blocks[:first], 0.0)
    return rate


def share(step: int, total: int, warmup: float) -> float:
    """Share of the peak rate: linear from 0 over the warm-up, then cosine to 0."""
    rising = max(round(warmup * total), 0)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(total - rising, 1)))


def uses_bf16(config: FineTune, device: torch.device) -> bool:
    """Whether the forward pass runs in bf16."""
    return config.precision == "bf16" or (config.precision == "auto" and multiplies_bf16(device))


def _learning(model: Tuned) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _set_generators(states: Mapping[str, Tensor]) -> None:
    """Go on drawing where a checkpoint was written."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _anywhere(source: Source) -> Source:
    """Videos in clips from a random place, as pretraining takes them; images as they are."""
    clips = clips_of(source)
    return source if clips is None else with_clips(source, replace(clips, where="random", count=1))


def _tell(step: int, total: int, per_epoch: int, loss: float, on_epoch: OnEpoch | None) -> None:
    """Say once an epoch how far training is."""
    done, epochs = math.ceil((step + 1) / per_epoch), math.ceil(total / per_epoch)
    log.info("finetune: epoch %d of %d, loss %.3f", done, epochs, loss)
    if on_epoch is not None:
        on_epoch(done, epochs)
