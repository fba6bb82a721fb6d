"""What a run will do, settled before it starts: batch, steps, when to log, save and probe."""

from __future__ import annotations

from dataclasses import dataclass

from openjepa.config import Duration, Recipe
from openjepa.errors import ConfigError, DataError
from openjepa.optim import Schedule


@dataclass(frozen=True)
class Plan:
    """The arithmetic of a run.

    images: samples there are (of all streams together); unit: what they are called. batch: samples per step over all
    processes. steps_per_epoch, total: in optimizer steps. log_every, save_every,
    keep_every, probe_every: in steps (0: never). warnings: settings that could not be used as given.
    """

    images: int
    batch: int
    steps_per_epoch: int
    total: int
    log_every: int
    save_every: int
    keep_every: int
    probe_every: int
    warnings: tuple[str, ...] = ()
    unit: str = "images"

    @classmethod
    def make(cls, recipe: Recipe, images: int, world: int = 1) -> Plan:
        """Plan ``recipe`` for a source of ``images`` samples on ``world`` processes.

        Raises:
            DataError: no images. ConfigError: a length of zero or in percent, or fewer images per step than processes.
        """
        unit = unit_of(recipe)
        if images < 1:
            raise DataError(f"there are no {unit} to train on")
        batch = min(recipe.train.batch_size, images)
        warnings = []
        if batch < recipe.train.batch_size:
            warnings.append(
                f"train.batch_size {recipe.train.batch_size} is more than the {images} {unit} there are: {batch} per step are used"
            )
        if batch < world:
            raise ConfigError(f"{batch} {unit} per step cannot be shared by {world} processes: start fewer processes")
        if recipe.train.length.unit == "percent":
            raise ConfigError(f"train.length={recipe.train.length} is a share of itself: give steps, epochs or samples")
        per_epoch = images // batch
        total = _steps(recipe.train.length, None, per_epoch, batch)
        if total < 1:
            raise ConfigError(f"train.length={recipe.train.length} is no step of {batch} {unit}: train for longer")

        def every(duration: Duration | None) -> int:
            return 0 if duration is None else max(_steps(duration, total, per_epoch, batch), 1)

        return cls(
            images,
            batch,
            per_epoch,
            total,
            log_every=every(recipe.log.every),
            save_every=every(recipe.checkpoint.every),
            keep_every=every(recipe.checkpoint.keep_every),
            probe_every=every(recipe.probe.every),
            warnings=tuple(warnings),
            unit=unit,
        )

    def schedule(self, recipe: Recipe) -> Schedule:
        """The learning-rate, weight-decay and momentum schedules of this run."""
        return Schedule(
            recipe.optim,
            recipe.target,
            total=self.total,
            steps_per_epoch=self.steps_per_epoch,
            batch_size=self.batch,
        )

    def epoch(self, step: int) -> float:
        """Epochs finished after ``step`` steps."""
        return step / self.steps_per_epoch

    def sentences(self, recipe: Recipe, schedule: Schedule, micro: int, micros: int, world: int, why: str) -> list[str]:
        """The arithmetic in words."""
        optim, target = recipe.optim, recipe.target
        ranks = f"{world} processes × " if world > 1 else ""
        left = self.images - self.steps_per_epoch * self.batch
        tail = f" ({left} {self.unit} are left over and drawn in other epochs)" if left else ""
        decay = f" → {optim.final_weight_decay:g}" if optim.final_weight_decay is not None else ""
        moved = (
            f" → {target.momentum[1]:g} ({target.momentum_schedule})" if target.momentum_schedule != "constant" else ""
        )
        momentum = f"; target momentum {target.momentum[0]:g}{moved}" if target.averaged else ""
        end = "" if optim.schedule == "constant" else f" → {optim.final_lr:g}"
        cuts = f"{micros} micro-batch{'es' if micros > 1 else ''} of at most {micro}"
        epochs = f"{self.epoch(self.total):.3g} epochs of {self.images} {self.unit}"
        return [
            f"batch: {self.batch} {self.unit} per step = {ranks}{cuts} ({why})",
            f"length: {self.total} steps = {epochs}, {self.steps_per_epoch} steps each{tail}",
            f"schedule: learning rate {optim.start_lr:g} → {optim.lr:g} in {schedule.warmup} steps, then {optim.schedule}{end}; "
            f"weight decay {optim.weight_decay:g}{decay}{momentum}",
            f"records: a row every {self.log_every} steps, a checkpoint every {self.save_every}",
        ]


def unit_of(recipe: Recipe) -> str:
    """What samples are called: images, clips (one of each video and epoch), or samples where streams hold both."""
    kinds = {stream.kind for stream in recipe.data.streams} or {"clips" if recipe.video else "images"}
    return kinds.pop() if len(kinds) == 1 else "samples"


def _steps(duration: Duration, total: int | None, per_epoch: int, batch: int) -> int:
    return duration.steps(total=total, steps_per_epoch=per_epoch, batch_size=batch)
