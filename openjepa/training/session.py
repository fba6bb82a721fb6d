"""A run while it lives: its parts put together, and what happens between the lines of the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openjepa.data import Normalise
from openjepa.errors import DataError, TrainingError
from openjepa.hub.atomic import write_file
from openjepa.hub.card import ModelCard
from openjepa.hub.checkpoint import discard_after, list_checkpoints, load_last, save_checkpoint
from openjepa.hub.model_directory import save_model, split_parts
from openjepa.training.assemble import Request, assemble, restore
from openjepa.training.compute import flops_per_sample
from openjepa.training.depth import deep_every
from openjepa.training.feed import Micro, Work
from openjepa.training.health import DEFAULT, Verdict, collapsed_for, judge
from openjepa.training.metrics import Metrics
from openjepa.training.progress import clock_time, describe_row
from openjepa.training.run import BAD_FILES, CHECKPOINTS, MODEL, PADDED_FILES
from openjepa.training.signals import StopSignals
from openjepa.training.state import gather_model, gather_optimizer, generators, seed_step, spread_model
from openjepa.training.timing import Clock
from openjepa.types import Batch, MaskGroup
from openjepa.types import Progress as Where

# A number of scores for the current encoder: called with (encoder in evaluation mode, normalise, device).
Probe = Callable[[nn.Module, Normalise, torch.device], Mapping[str, float]]


@dataclass(frozen=True)
class RunResult:
    """What :func:`openjepa.training.train` hands back.

    step, total: finished and planned steps. stopped_by: the signal that ended the run early (it can be resumed), None
    when it is finished. metrics: the last row of ``metrics.jsonl``. bad: unreadable files with the reason. padded: videos
    shorter than their clip, with the frames that repeat others.
    """

    run_dir: Path
    step: int
    total: int
    verdict: Verdict
    metrics: Mapping[str, Any]
    bad: Mapping[str, str] = field(default_factory=dict)
    skipped_updates: int = 0
    stopped_by: str | None = None
    padded: Mapping[str, int] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether all planned steps are done."""
        return self.step >= self.total


class Session:
    """Context manager around one sitting of a run. Everything the loop touches hangs here (see :mod:`assemble`)."""

    def __init__(self, request: Request, probes: Sequence[Probe] = ()) -> None:
        self._request, self._probes = request, probes
        self.recipe, self.out = request.recipe, request.out
        self._stack = ExitStack()
        self.clock = Clock()
        self._stop = False
        self._left = 0.0
        self._verdict = Verdict("not judged", "nothing has been measured yet")

    def __enter__(self) -> Session:
        with ExitStack() as stack:
            self._signals = stack.enter_context(StopSignals())
            parts = assemble(stack, self._request)
            self._stack = stack.pop_all()
        self.engine, self.plan, self.schedule, self.state = parts.engine, parts.plan, parts.schedule, parts.state
        self.feed, self.updater, self.meter, self.panel = parts.feed, parts.updater, parts.meter, parts.panel
        self.normalise, self.reporter = parts.normalise, parts.reporter
        self._metrics: Metrics | None = parts.metrics
        self._began = time.monotonic() - self.state.seconds
        self.clock.before, self._flops = self.state.seconds, flops_per_sample(self.recipe)
        self._saved_at = self.state.step if parts.resumed_from_checkpoint else -1
        self._rows: list[dict[str, Any]] = self._history()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    # ------------------------------------------------------------------ what the loop asks

    def begin(self) -> None:
        """Show where the run stands, and measure the fresh encoder before the first step."""
        self.reporter.begin(self.plan.total, self.state.step)
        self.clock.restart(count=False)  # what came before was no training
        if self.state.step == 0 and not self._rows:
            self.log()
        self.clock.restart(count=False)

    def goes_on(self) -> bool:
        """Whether there is another step to do."""
        return self.state.step < self.plan.total and not self._stop

    def scheduled(self) -> tuple[float, float, float]:
        """Learning rate, weight decay and target momentum of this step."""
        step = self.state.step
        if self.recipe.model.drop_path > 0:
            seed_step(self.recipe.seed, step, self.engine.world.rank)
        lr = self.schedule.lr(step) * self.state.lr_factor
        return lr, self.schedule.weight_decay(step), self.schedule.momentum(step)

    def progress(self) -> Where:
        """Where training is, for the method."""
        epoch = self.state.step // self.plan.steps_per_epoch
        return Where(self.state.step, self.plan.total, self.state.samples, epoch)

    def to_device(self, micro: Micro) -> tuple[Batch, list[MaskGroup]]:
        """A micro-batch on the device, its images or clips normalised there."""
        batch = micro.batch.to(self.engine.device)
        inputs = {name: self.normalise(value) for name, value in batch.inputs.items()}
        masks = [group.to(self.engine.device) for group in micro.masks]
        return Batch(inputs, batch.ids, batch.places, batch.labels), masks

    def end_step(self, work: Work) -> None:
        """Count the step, and hear whether somebody wants the run to stop."""
        self.meter.end_step(work.samples, work.stats)
        self.updater.count_skips()
        self.state.step += 1
        self.state.samples += work.samples
        self.clock.samples += work.samples
        self.reporter.step(self.state.step, self._describe)
        self._stop = self.engine.world.agree(self._signals.wanted)

    def row_is_due(self) -> bool:
        """Every ``log.every`` steps, at the last one, and when probes are due."""
        step = self.state.step
        return step % self.plan.log_every == 0 or step == self.plan.total or self._probe_is_due()

    def save_is_due(self) -> bool:
        """Every ``checkpoint.every`` steps, at the last one, and when the run is asked to stop."""
        step = self.state.step
        kept = self.plan.keep_every > 0 and step % self.plan.keep_every == 0
        return step > 0 and (step % self.plan.save_every == 0 or kept or step == self.plan.total or self._stop)

    # ------------------------------------------------------------------ log

    def log(self) -> None:
        """Measure, judge, write a row, and act on the verdict as ``health`` says.

        Raises:
            TrainingError: the run diverged or collapsed and is to stop. RunError: the row cannot be written.
        """
        self.updater.flush()
        with self.clock.part("panel"), self.feed.pause():
            health = self.panel.measure(self._deep_is_due())
        row = self._row(health)
        self.meter.reset()
        self.clock.restart()  # here, so that writing and saving count into the next window's host share
        self._verdict = judge([*self._rows, row])
        row["health"]["verdict"] = str(self._verdict)
        if self._probe_is_due():
            row["probes"] = self._probe()
        row["time"] = round(time.time(), 3)
        self._rows.append(row)
        self.engine.world.on_first(lambda: self._write(row))
        self._act()

    def _write(self, row: dict[str, Any]) -> None:
        assert self._metrics is not None
        self._metrics.write(row)
        self.reporter.row(describe_row(row, self.plan.total, self._left, self.plan.unit), row)

    def _row(self, health: dict[str, Any]) -> dict[str, Any]:
        step = self.state.step
        loss, terms, stats = self.meter.means() if step else (health["loss_on_panel"], {}, dict(self.panel.stats))
        last = max(step - 1, 0)  # the update these values were used in
        seconds = self.clock.elapsed()
        self._left = self._seconds_left()
        shares = {name: stats[name] for name in ("context_share", "context_kept", "target_share") if name in stats}
        return {
            "step": step,
            "epoch": round(self.plan.epoch(step), 4),
            "samples": self.state.samples,
            "seconds": round(self.clock.trained(), 3),
            "flops": self._flops * self.state.samples,
            "loss": loss,
            "terms": terms,
            "lr": self.schedule.lr(last) * self.state.lr_factor,
            "weight_decay": self.schedule.weight_decay(last),
            "momentum": self.schedule.momentum(last),
            "grad_norm": {name: float(value) for name, value in self.updater.norms.items()},
            "images_per_s": round(self.clock.samples / seconds, 2) if self.clock.samples else 0.0,
            **self.clock.shares(),
            "skipped_updates": self.updater.skips.total,
            "health": {
                **shares,
                **health,
                "warmup_steps": self.schedule.warmup,
                "total_steps": self.plan.total,
            },
        }

    def _deep_is_due(self) -> bool:
        every = deep_every(self.plan.log_every, self.plan.batch, len(self.panel.batch))
        return self.state.step % every == 0 or self.state.step == self.plan.total

    def _probe_is_due(self) -> bool:
        if not self._probes or self.state.step == 0:
            return False
        every = self.plan.probe_every
        return self.state.step == self.plan.total or (every > 0 and self.state.step % every == 0)

    def _probe(self) -> dict[str, float]:
        """Scores of the target encoder, computed by the first process; the others wait."""
        engine = self.engine
        tensors = gather_model(engine) if engine.strategy == "fsdp2" else None

        def score() -> dict[str, float]:
            encoder = engine.plain_encoder(self.recipe, tensors)
            found: dict[str, float] = {}
            for probe in self._probes:
                try:
                    scores = probe(encoder, self.normalise, engine.device)
                except DataError as error:  # labels that cannot be scored are no reason to lose a training
                    self.reporter.warn(f"step {self.state.step}: no probe: {error}")
                    continue
                found.update({name: float(value) for name, value in scores.items()})
            return found

        with self.clock.part("probe"), self.feed.pause():
            scores = engine.world.on_first(score)
        self.engine.method.train()
        return scores

    def _act(self) -> None:
        """Warn, stop or roll back."""
        verdict, health = self._verdict, self.recipe.health
        before = str(self._rows[-2]["health"]["verdict"]) if len(self._rows) > 1 else ""
        if verdict.ill and not before.startswith(verdict.name):
            self.reporter.warn(f"step {self.state.step}: {verdict}")
        if verdict.name == "diverging" and health.on_diverge != "warn":
            self._on_divergence()
        if health.on_collapse == "stop" and collapsed_for(self._rows) >= DEFAULT.stop_after:
            raise TrainingError(f"stopped at step {self.state.step}: {verdict}")

    def _on_divergence(self) -> None:
        root = self.out / CHECKPOINTS
        can = self.recipe.health.on_diverge == "rollback" and self.state.rollbacks == 0 and list_checkpoints(root)
        if not can:
            raise TrainingError(f"stopped at step {self.state.step}: {self._verdict}")
        found, left = load_last(root, self.reporter.warn), self.state.step
        spread_model(self.engine, found.tensors["model"])
        self.state = restore(self.engine, self.updater, self.meter, found)
        self.state.rollbacks, self.state.lr_factor = 1, self.state.lr_factor / 2
        self._saved_at = found.step
        self._rows = [row for row in self._rows if row["step"] <= found.step]
        if self._metrics is not None:
            self._metrics.rewind(found.step)
        self.engine.world.on_first(lambda: discard_after(root, found.step))
        self.feed.seek(found.step)
        self.reporter.warn(
            f"diverged at step {left}: back to the checkpoint of step {found.step} with half the learning rate "
            "(a second divergence stops the run)"
        )

    # ------------------------------------------------------------------ save

    def save(self) -> None:
        """Write a checkpoint. Raises RunError (one line) when it cannot be written; the older ones remain."""
        if self._saved_at == self.state.step:
            return
        self.updater.flush()
        state = self.state
        state.skipped, state.skipped_in_row = self.updater.skips.total, self.updater.skips.in_row
        state.bad, state.meter = self.engine.world.merge(self.feed.bad), self.meter.state()
        state.padded = self.engine.world.merge(self.feed.padded)
        state.scaler = self.engine.scaler.state_dict() or None
        state.seconds, state.history = self.clock.trained(), self._essential_rows()
        tensors = {
            "model": gather_model(self.engine),
            "optimizer": gather_optimizer(self.engine, self.updater.optimizer),
        }
        self.engine.world.on_first(
            lambda: save_checkpoint(
                self.out / CHECKPOINTS,
                state.step,
                tensors=tensors,
                states={"loop": state.pack(), "generators": generators()},
                recipe=self.recipe,
                keep=self.recipe.checkpoint.keep,
                keep_every=self.plan.keep_every or None,
            )
        )
        if state.bad:
            self.engine.world.on_first(lambda: write_file(self.out / BAD_FILES, dict(state.bad)))
        if state.padded:
            self.engine.world.on_first(lambda: write_file(self.out / PADDED_FILES, dict(state.padded)))
        self._saved_at = state.step
        self.reporter.say(f"saved step {state.step}", "checkpoint", {"step": state.step})

    def finish(self) -> RunResult:
        """Write ``model/``, say how it ended, and hand back the result."""
        state = self.state
        self.reporter.close()
        parts = split_parts(gather_model(self.engine))
        scores: Mapping[str, float] = next((row["probes"] for row in reversed(self._rows) if row.get("probes")), {})
        names = dict.fromkeys(source.name for source in self._request.sources)
        card = ModelCard(state.step, state.samples, ", ".join(names), str(self._verdict), scores)
        self.engine.world.on_first(lambda: save_model(self.out / MODEL, parts, self.recipe, card))
        self._say_end()
        row = self._rows[-1] if self._rows else {}
        stopped = self._signals.name or "another process" if not state.step >= self.plan.total else None
        skips = self.updater.skips.total
        # Of all processes, as they were merged for the last checkpoint.
        bad, padded = state.bad, state.padded
        return RunResult(self.out, state.step, self.plan.total, self._verdict, row, bad, skips, stopped, padded)

    def _say_end(self) -> None:
        step, total, bad, padded = self.state.step, self.plan.total, self.state.bad, self.state.padded
        if bad:
            names = ", ".join(list(bad)[:3]) + (", …" if len(bad) > 3 else "")
            many = f"{len(bad)} files" if len(bad) > 1 else "1 file"
            self.reporter.warn(
                f"{many} could not be read and {'were' if len(bad) > 1 else 'was'} replaced by others: {names}"
            )
        if padded:
            names = ", ".join(list(padded)[:3]) + (", …" if len(padded) > 3 else "")
            many = f"{len(padded)} videos are" if len(padded) > 1 else "1 video is"
            self.reporter.warn(f"{many} shorter than the clip and repeated frames (data.clip.short): {names}")
        if step < total:
            by = self._signals.name or "another process"
            text = f"stopped by {by} after step {step} of {total}, saved: continue with --out {self._request.resumable} --resume"
        else:
            text = f"finished {total} steps in {clock_time(time.monotonic() - self._began)}; {self._verdict}; model in {self.out / MODEL}"
        self.reporter.say(text, "end", {"step": step, "total": total})

    # ------------------------------------------------------------------ small things

    def _history(self) -> list[dict[str, Any]]:
        """Rows so far: from ``metrics.jsonl``, else the essential ones in the checkpoint. All processes get the same."""
        rows = self.engine.world.on_first(lambda: list(self._metrics.rows) if self._metrics is not None else [])
        rows = rows or list(self.state.history)
        if rows:
            self._verdict = judge(rows)
        return rows

    def _essential_rows(self) -> list[dict[str, Any]]:
        """What a verdict needs: the first row, the best, and the last ones."""
        rows = self._rows
        if len(rows) <= 2 * DEFAULT.stop_after:
            return list(rows)
        best = min(rows[1:], key=lambda row: row["loss"] if row["loss"] is not None else float("inf"))
        tail = rows[-2 * DEFAULT.stop_after :]
        return [rows[0], *([best] if best not in tail else []), *tail]

    def _seconds_left(self) -> float:
        if not self.clock.samples:
            return 0.0
        return self.clock.elapsed() / self.clock.samples * self.plan.batch * (self.plan.total - self.state.step)

    def _describe(self) -> str:
        """Words beside the progress bar."""
        seconds = max(self.clock.elapsed(), 1e-9)
        loss = self._rows[-1]["loss"] if self._rows else None
        words = [f"{self.clock.samples / seconds:.4g} {self.plan.unit}/s", f"{clock_time(self._seconds_left())} left"]
        words += [f"loss {loss:.4g}"] if loss is not None else []
        return " · ".join([*words, self._verdict.name])
