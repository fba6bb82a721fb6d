"""Putting a run together: machine, plan, directory, weights, optimizer, data, panel. Each in one function, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from openjepa.config import Recipe
from openjepa.data import Normalise, Source
from openjepa.data.video_inspection import check_clips
from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub.checkpoint import Checkpoint, discard_after, list_checkpoints, load_last
from openjepa.hub.fit import EncoderWeights, fit_encoder
from openjepa.hub.opening import open_own
from openjepa.hub.strict import load_strict
from openjepa.methods import Method, build_method
from openjepa.objectives.across import alone
from openjepa.optim import Schedule
from openjepa.training.engine import Engine
from openjepa.training.feed import Feed, Share, lane_cut, seats
from openjepa.training.initial import InitialWeights, Start, check_not_lost, fit_initial
from openjepa.training.lanes import Lane, dearest, is_video, match_sources, plan_lanes, rounded_shares
from openjepa.training.meter import Meter
from openjepa.training.metrics import Metrics
from openjepa.training.panel import HealthPanel
from openjepa.training.plan import Plan
from openjepa.training.progress import Event, Reporter
from openjepa.training.run import CHECKPOINTS, LOG, RunDirectory
from openjepa.training.sizing import micro_bound
from openjepa.training.state import LoopState, restore_generators, restore_optimizer, seed_everything
from openjepa.training.update import Updater
from openjepa.types import Batch, Progress

# Identity of the data is looked up file by file; above this many it would delay the start by minutes on slow disks.
_FINGERPRINT_UP_TO = 200_000


@dataclass(frozen=True)
class Parts:
    """All parts of a run, ready for the first step."""

    engine: Engine
    plan: Plan
    schedule: Schedule
    state: LoopState
    feed: Feed
    updater: Updater
    meter: Meter
    panel: HealthPanel
    normalise: Normalise
    reporter: Reporter
    metrics: Metrics | None
    resumed_from_checkpoint: bool


@dataclass(frozen=True)
class Stage:
    """A run that is one stage of a larger one (:mod:`openjepa.training.stages`).

    whole: directory of the larger run, which is what a user continues. after: run directory of the stage before, whose
    last weights (online, predictor, target) this stage starts from; None for the first. keep_optimizer: and its moments.
    """

    whole: Path
    after: Path | None = None
    keep_optimizer: bool = True


@dataclass(frozen=True)
class Request:
    """What was asked for (see :func:`openjepa.training.train`)."""

    recipe: Recipe
    source: Source | Sequence[Source]
    out: Path
    resume: bool = False
    init: str | Path | InitialWeights | None = None
    overwrite: bool = False
    on_event: Callable[[Event], None] | None = None
    console: bool = True
    stage: Stage | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """One for each lane (:mod:`openjepa.training.lanes`)."""
        return match_sources(self.recipe, self.source)

    @property
    def resumable(self) -> Path:
        """The directory that ``--out … --resume`` continues."""
        return self.out if self.stage is None else self.stage.whole


def assemble(stack: ExitStack, request: Request) -> Parts:
    """Build everything; what must be closed at the end is put on ``stack``. Errors as in :func:`openjepa.training.train`."""
    recipe, sources, out, init = request.recipe, request.sources, request.out, request.init
    engine = Engine(recipe.train)
    world = engine.world
    stack.enter_context(world.guarded(lambda: f"continue with --out {request.resumable} --resume"))
    plan = Plan.make(recipe, sum(len(source) for source in sources), world.size)
    lanes = plan_lanes(recipe, plan.batch)
    engine.decide_compile(plan.total)
    first = None if init is None or request.resume else fit_initial(recipe, init)  # before anything on disk is touched
    directory = _claim(stack, engine, request)
    reporter = Reporter(out / LOG, speaks=world.first, console=request.console, on_event=request.on_event)
    stack.callback(reporter.close)
    notes = world.on_first(lambda: directory.check_same(recipe) if directory and request.resume else [])

    checkpoint = _find_checkpoint(out, engine, reporter, request.resume)
    if checkpoint is None and request.resume:
        check_not_lost(out, request.resumable)
    before = None if checkpoint else _stage_before(request.stage, reporter)
    method = engine.prepare(_build(recipe, checkpoint or before, first))
    normalise = Normalise.for_data(recipe.data).to(engine.device)
    updater, meter = Updater(engine, recipe), Meter(world, engine.device)
    state = LoopState() if checkpoint is None else restore(engine, updater, meter, checkpoint)
    if before is not None and request.stage is not None and request.stage.keep_optimizer:
        _take_over_optimizer(engine, updater, before)
    notes += _settle(state, plan, sources, resumed=checkpoint is not None) + rounded_shares(lanes)
    _check_placement(recipe, lanes, engine)

    micro, why = _micro_batch(recipe, plan, lanes, engine, normalise, state)
    schedule = plan.schedule(recipe)
    start = f"starts from the weights in {first.source}" if first is not None else "starts from fresh weights"
    if before is not None:
        start = f"starts from the weights of {before.path}"
    if request.resume and before is None:
        start = (
            f"continues after step {state.step}" if checkpoint else "had saved nothing yet: starts from the beginning"
        )
    _speak(reporter, f"run {out}: recipe {recipe.name}, seed {recipe.seed}; {start}", engine)
    if first is not None:
        first.tell(reporter, directory.path if directory else None)
    _speak_data(reporter, lanes, sources, method)
    _speak_numbers(reporter, recipe, plan, lanes, schedule, engine, (micro, why), notes)
    # Before the feed: both seed torch's generator per sample, and the feed has a thread of its own.
    panel = HealthPanel(recipe, lanes[0], sources[0], engine, normalise)
    state.micro = micro
    feed = _open_feed(recipe, lanes, sources, plan, engine, state)
    stack.callback(feed.close)
    metrics = _open_records(stack, recipe, plan, engine, directory, state, checkpoint)
    if checkpoint is not None:
        with feed.pause():  # its thread augments by torch's generator, seeded anew for every sample
            restore_generators(checkpoint.states["generators"])
    saved = checkpoint is not None
    return Parts(engine, plan, schedule, state, feed, updater, meter, panel, normalise, reporter, metrics, saved)


def restore(engine: Engine, updater: Updater, meter: Meter, checkpoint: Checkpoint) -> LoopState:
    """Put a checkpoint's optimizer, scaler, counters and open means back; weights are loaded apart. Returns the loop state."""
    state = LoopState.unpack(checkpoint.states["loop"])
    restore_optimizer(engine, updater.optimizer, checkpoint.tensors["optimizer"])
    if state.scaler and engine.scaler.is_enabled():
        engine.scaler.load_state_dict(state.scaler)
    updater.skips.total, updater.skips.in_row = state.skipped, state.skipped_in_row
    if state.meter is not None:
        meter.restore(state.meter)
    return state


def _claim(stack: ExitStack, engine: Engine, request: Request) -> RunDirectory | None:
    """The first process takes the run directory; the others learn whether it could."""
    taken: list[RunDirectory] = []

    def claim() -> None:
        directory = RunDirectory.claim(
            request.out, resume=request.resume, init=request.init, overwrite=request.overwrite
        )
        taken.append(directory)
        stack.callback(directory.close)

    engine.world.on_first(claim)
    return taken[0] if taken else None


def _find_checkpoint(out: Path, engine: Engine, reporter: Reporter, resume: bool) -> Checkpoint | None:
    """The checkpoint to continue from, None when the run is new or was killed before its first one."""
    root = out / CHECKPOINTS
    if not resume or not list_checkpoints(root):
        return None
    found = load_last(root, reporter.warn)
    # A damaged newer one must not win the next time.
    engine.world.on_first(lambda: discard_after(root, found.step))
    return found


def _build(recipe: Recipe, checkpoint: Checkpoint | None, first: Start | None) -> Method:
    """The method with its weights: saved, taken from elsewhere, or fresh (the same in every process)."""
    seed_everything(recipe.seed)
    method = build_method(recipe)
    if checkpoint is not None:
        load_strict(method, checkpoint.tensors["model"])
        return method
    if first is not None:
        first.load_into(method)
    if recipe.target.weights is not None:
        _load_teacher(method, recipe.target.weights)
    return method


def _stage_before(stage: Stage | None, reporter: Reporter) -> Checkpoint | None:
    """The last checkpoint of the stage before, None where there is none before."""
    return None if stage is None or stage.after is None else load_last(stage.after / CHECKPOINTS, reporter.warn)


def _take_over_optimizer(engine: Engine, updater: Updater, before: Checkpoint) -> None:
    """Moments (and the loss scale of fp16) of the stage before; counters and schedules start anew."""
    restore_optimizer(engine, updater.optimizer, before.tensors["optimizer"])
    scaler = LoopState.unpack(before.states["loop"]).scaler
    if scaler and engine.scaler.is_enabled():
        engine.scaler.load_state_dict(scaler)


def _load_teacher(method: Method, path: str) -> None:
    """The frozen teacher: the deployed encoder of any model of ours, of this recipe's width and depth."""
    assert method.target is not None
    try:
        fit_encoder(method.target, EncoderWeights.of(open_own(path).encoder)).load_into(method.target)
    except CheckpointError as error:
        raise CheckpointError(f"target.weights {path} does not fit this recipe: {error}") from error


def _settle(state: LoopState, plan: Plan, sources: Sequence[Source], *, resumed: bool) -> list[str]:
    """Enter the plan into the state, after checking that a resumed run goes on with the same data. Returns remarks."""
    identities = [s.fingerprint() if len(s) <= _FINGERPRINT_UP_TO else f"{len(s)} samples" for s in sources]
    identity = " ".join(identities)
    notes = list(plan.warnings)
    if resumed:
        notes += state.check_data(plan.images, identity, plan.batch, plan.unit)
        if state.total != plan.total:
            notes.append(
                f"the run was planned for {state.total} steps and is {plan.total} now: schedules are laid out anew, "
                f"so the learning rate jumps at step {state.step}"
            )
    state.total, state.batch, state.images, state.fingerprint = plan.total, plan.batch, plan.images, identity
    return notes


def _check_placement(recipe: Recipe, lanes: Sequence[Lane], engine: Engine) -> None:
    """Streams on processes of their own: what needs all processes to do the same in every forward pass cannot be had."""
    if recipe.data.placement == "mix" or len(lanes) == 1 or engine.world.size == 1:
        return
    if engine.strategy == "fsdp2":
        raise ConfigError(
            "train.strategy fsdp2 exchanges weights in every forward pass, and with data.placement=ranks processes have "
            "unequally many: use train.strategy=ddp, or data.placement=mix"
        )
    if engine.method.batch_statistics:
        raise ConfigError(
            "objectives with batch statistics compare the samples of all processes, and with data.placement=ranks these "
            "belong to different streams: set data.placement=mix"
        )


def _micro_batch(
    recipe: Recipe, plan: Plan, lanes: Sequence[Lane], engine: Engine, normalise: Normalise, state: LoopState
) -> tuple[int, str]:
    """Largest micro-batch of this run (of the dearest lane), and why.

    A resumed run keeps its own: another cut would round differently.
    """
    lane = dearest(lanes)
    crews = [seat.world for seat in seats(lanes, Share(engine.world.rank, engine.world.size), recipe.data.placement)]
    rows = max(-(-line.rows // max(crew, 1) // line.relief) for line, crew in zip(lanes, crews, strict=True))
    asked = recipe.train.micro_batch
    if asked != "auto":
        return min(asked, rows), "as asked"
    if state.micro:
        return min(state.micro, rows), "as before"
    bound = micro_bound(recipe, lane.tokens, engine.method.online, engine.device)
    if bound is not None:
        size = engine.world.smallest(min(bound, rows))
        return size, "the whole batch fits in memory" if size == rows else "what fits in free memory"
    masks = lane.masker(recipe)

    def attempt(size: int) -> None:
        order, shape = torch.arange(size), (size, recipe.data.channels)
        group = masks(order, 0, 0)
        inputs = {
            name: normalise(torch.zeros(*shape, *side, device=engine.device, dtype=torch.uint8))
            for name, side in lane.inputs.items()
        }
        batch = Batch(inputs, order, order).to(engine.device)
        count = engine.method.count([group], size)
        with alone(), engine.autocast():  # processes try at their own pace
            output = engine.method(batch, [group.to(engine.device)], Progress(0, plan.total), count)
        output.loss_sum.backward()

    return engine.largest_micro_batch(rows, attempt)


def _open_feed(
    recipe: Recipe, lanes: Sequence[Lane], sources: Sequence[Source], plan: Plan, engine: Engine, state: LoopState
) -> Feed:
    feed = Feed(
        recipe,
        lanes,
        sources,
        total=plan.total,
        share=Share(engine.world.rank, engine.world.size, state.micro),
        count=engine.method.count,
        start=state.step,
        pin=engine.device.type == "cuda",
        ahead=recipe.model.drop_path == 0,  # else the step draws from the generator that augmentation seeds
    )
    feed.forgive(state.bad, state.padded)
    return feed


def _open_records(
    stack: ExitStack,
    recipe: Recipe,
    plan: Plan,
    engine: Engine,
    directory: RunDirectory | None,
    state: LoopState,
    checkpoint: Checkpoint | None,
) -> Metrics | None:
    """Metrics of the first process, cut to the step the run goes on from; config.yaml and environment.json."""
    opened: list[Metrics] = []

    def work() -> None:
        assert directory is not None
        directory.describe(recipe, {"steps": plan.total, "batch": plan.batch, "images": plan.images})
        after = state.step if checkpoint is not None else None
        opened.append(Metrics(directory.path, after=after, tensorboard=recipe.log.tensorboard))
        stack.callback(opened[0].close)

    engine.world.on_first(work)
    return opened[0] if opened else None


def _speak(reporter: Reporter, first: str, engine: Engine) -> None:
    """What is run, and where."""
    reporter.say(first)
    for choice in engine.choices:
        reporter.say(str(choice))


def _speak_data(reporter: Reporter, lanes: Sequence[Lane], sources: Sequence[Source], method: Method) -> None:
    """What is learned from, and by what."""
    for lane, source in zip(lanes, sources, strict=True):
        classes = f" in {len(source.classes)} classes" if source.classes else ", no labels"
        part = "" if len(lanes) == 1 else f"; {lane.describe()}"
        reporter.say(f"data: {source.name}, {len(source)} {'videos' if is_video(source) else 'images'}{classes}{part}")
        note = getattr(source, "note", "")
        if note:
            reporter.say(f"data: {note}")
        for line in check_clips(lane.training(source)[0]):  # of the lane: streams have lengths of their own
            reporter.say(f"data: {line}")
    learning = sum(p.numel() for p in method.parameters() if p.requires_grad)
    target = {"ema": "a slow average is the target", "frozen": "a frozen encoder is the target"}
    second = target.get(method.recipe.target.kind, "no second encoder")
    reporter.say(f"model: {learning / 1e6:.3g} M parameters learn (encoder and predictor), {second}")


def _speak_numbers(
    reporter: Reporter,
    recipe: Recipe,
    plan: Plan,
    lanes: Sequence[Lane],
    schedule: Schedule,
    engine: Engine,
    micro: tuple[int, str],
    notes: list[str],
) -> None:
    """The arithmetic, and what deserves a warning."""
    size, why = micro
    world = engine.world.size
    places = seats(lanes, Share(engine.world.rank, world), recipe.data.placement)
    cuts = [lane_cut(lane, seat, size, fullest=True) for lane, seat in zip(lanes, places, strict=True) if seat.world]
    number, largest = sum(len(cut.parts) for cut in cuts), max(cut.largest for cut in cuts)
    for sentence in plan.sentences(recipe, schedule, size if len(lanes) == 1 else largest, number, world, why):
        reporter.say(sentence)
    for note in [*notes, *schedule.notes]:
        reporter.warn(note)
    method = engine.method
    if method.batch_statistics and (number > 1 or (world > 1 and not method.synchronised)):
        sees = min(largest * (world if method.synchronised else 1), plan.batch)
        reporter.warn(
            f"the objective uses batch statistics (objective.regularisers, objective.pooled, info_nce, batch norm or "
            f"target.transform centred): they see {sees} {plan.unit} at a time, not {plan.batch}, so the result depends on "
            f"micro-batches{'' if method.synchronised else ' and processes'}"
        )
