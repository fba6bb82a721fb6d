"""The training loop. One function, read from top to bottom: fetch, forward, backward, step, EMA, log, save."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from openjepa.config import Recipe
from openjepa.data import Source
from openjepa.training.assemble import Request, Stage
from openjepa.training.initial import InitialWeights
from openjepa.training.progress import Event
from openjepa.training.session import Probe, RunResult, Session


def train(
    recipe: Recipe,
    source: Source | Sequence[Source],
    *,
    out: str | Path,
    resume: bool = False,
    init: str | Path | InitialWeights | None = None,
    overwrite: bool = False,
    probes: Sequence[Probe] = (),
    on_event: Callable[[Event], None] | None = None,
    console: bool = True,
    stage: Stage | None = None,
) -> RunResult:
    """Train ``recipe`` on ``source`` into run directory ``out``; the same call continues a run with ``resume``.

    Args:
        source: the data; several, one for each of ``data.streams``, where streams have data of their own.
        init: weights the new run starts from: a run, model or checkpoint directory, or what was opened already.
        overwrite: replace the run in ``out``.
        probes: called with (encoder, normalise, device) every ``probe.every`` and at the end; their numbers are logged.
        on_event: receives every :class:`Event`. console: also write to standard error.
        stage: this run is a stage of another (:func:`openjepa.training.train_stages`).

    Raises:
        RunError: ``out`` cannot be used as asked, or saving failed. DataError: too few readable images.
        ConfigError: the recipe does not fit the machine. CheckpointError: nothing whole to resume or start from.
        TrainingError: the run diverged, collapsed, stayed not finite, or lost a process (as ``health`` configures).
    """
    request = Request(recipe, source, Path(out), resume, init, overwrite, on_event, console, stage)
    with Session(request, probes) as run:
        run.begin()  # says what was decided, and measures the fresh encoder

        while run.goes_on():
            # ------------------------------------------------------------------ fetch
            # Images, and masks planned for the global batch: a thread has prepared both.
            with run.clock.part("data"):
                work = run.feed.next()

            with run.clock.part("step"):
                lr, weight_decay, momentum = run.scheduled()

                # -------------------------------------------------------------- forward and backward
                # Summed losses over the *global* element count: any number of micro-batches or processes gives the
                # same gradient.
                for micro in work.micros:
                    batch, masks = run.to_device(micro)
                    with run.engine.accumulating(last=micro.last):
                        with run.engine.autocast():
                            output = run.engine.model(batch, masks, run.progress(), micro.count)
                        run.engine.backward(output.loss_sum, work.count)
                    run.meter.add(output, work.count)

                # -------------------------------------------------------------- step
                run.updater.step(lr, weight_decay)  # skipped when a gradient is not finite

                # -------------------------------------------------------------- EMA
                run.updater.average(momentum)
                run.end_step(work)

            # ------------------------------------------------------------------ log
            if run.row_is_due():
                run.log()  # health panel, verdict, probes; may roll the run back

            # ------------------------------------------------------------------ save
            if run.save_is_due():
                run.save()

        return run.finish()
