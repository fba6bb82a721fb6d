"""Several processes of one run, forked from a parent that has imported torch: what ``torchrun`` does, without its start-up.

``python rank_harness.py FOLDER SCENARIO`` prints JSON; used by ``test_processes.py`` and ``test_lost_rank.py``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
import torch.distributed.fsdp
import torch.distributed.tensor
import torchvision.transforms.v2.functional  # noqa: F401  else every fork imports it again, a second each
from fake_videos import FakeVideos
from tiny_runs import Generated, differences, in_child, largest_difference, numbers, saved_state, tiny_recipe
from tiny_videos import video_recipe

from openjepa.config import stage_recipes
from openjepa.errors import OpenJepaError
from openjepa.training import Event, StagePart, train, train_stages

SETTINGS = ("train.length=3 steps", "checkpoint.every=2 steps", "log.every=1 steps", "train.batch_size=7")


def go(out: Path, *overrides: str, resume: bool = False, on_event: Callable[[Event], None] | None = None) -> None:
    """One process's part of a run."""
    torch.set_num_threads(1)
    train(tiny_recipe(*overrides), Generated(), out=out, resume=resume, console=False, on_event=on_event)


def ranks(count: int, work: Callable[[int], None]) -> list[int]:
    """Fork ``count`` processes as a launcher would set them up; returns their process ids."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(count):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ.update({key: str(value) for key, value in place.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        children.append(in_child(lambda rank=rank: work(rank)))
    for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[key]
    return children


def wait(children: list[int], seconds: float) -> list[int | None]:
    """Exit codes; None for a process that did not end in time (it is killed)."""
    codes: list[int | None] = [None] * len(children)
    deadline = time.monotonic() + seconds
    while None in codes and time.monotonic() < deadline:
        for i, child in enumerate(children):
            if codes[i] is None:
                done, status = os.waitpid(child, os.WNOHANG)
                codes[i] = os.waitstatus_to_exitcode(status) if done else None
        time.sleep(0.02)
    for child, code in zip(children, codes, strict=True):
        if code is None:
            os.kill(child, signal.SIGKILL)
    return codes


def alone(out: Path, *overrides: str, resume: bool = False) -> None:
    """The run in one process."""
    assert wait([in_child(lambda: go(out, *overrides, resume=resume))], 120) == [0]


def same_weights(folder: Path) -> dict[str, Any]:
    """Two processes, DDP and FSDP2, with micro-batches and an odd batch, against one process."""
    alone(folder / "one", *SETTINGS)
    one, rows = saved_state(folder / "one")[0], numbers(folder / "one")
    out: dict[str, Any] = {}
    for strategy in ("ddp", "fsdp2"):
        settings = (*SETTINGS, f"train.strategy={strategy}", "train.micro_batch=2")
        codes = wait(ranks(2, lambda rank, s=strategy, o=settings: go(folder / s, *o)), 120)
        two, other = saved_state(folder / strategy)[0], numbers(folder / strategy)
        loss = max(abs(a["loss"] - b["loss"]) for a, b in zip(rows, other, strict=True))
        norm = max(
            abs(a["grad_norm"].get("total", 0) - b["grad_norm"].get("total", 0))
            for a, b in zip(rows, other, strict=True)
        )
        out[strategy] = {"codes": codes, "weights": largest_difference(one, two), "loss": loss, "norm": norm}
    return out


def sharded_parts(folder: Path) -> dict[str, Any]:
    """What only other systems than I-JEPA have, in two sharded processes against one: difference of weights."""
    parts = {
        "mask tokens, FFN targets, regularisers": (
            "mask={kind: block, min_block: 2}",
            "predictor={kind: linear}",
            "target={layers: 2, layer_output: ffn, transform: none}",
            "objective.regularisers=[{kind: sigreg, directions: 8}, {kind: vicreg}]",
        ),
        "class token and pixels": (
            "method=masked_pixel",
            "mask={kind: random}",
            "model.class_token=true",
            "predictor={kind: pixel, dim: 12, depth: 1, heads: 1}",
            "target.kind=pixels",
        ),
    }
    out: dict[str, Any] = {}
    for name, changes in parts.items():
        # A large eps: AdamW's division would turn the rounding noise of gradients that are 0 into steps of full length.
        settings = (*SETTINGS, "optim.eps=0.01", *changes)
        alone(folder / f"{name}-1", *settings)
        both = (*settings, "train.strategy=fsdp2")
        codes = wait(ranks(2, lambda rank, n=name, b=both: go(folder / f"{n}-2", *b)), 120)
        states = [saved_state(folder / f"{name}-{count}")[0] for count in (1, 2)] if codes == [0, 0] else []
        out[name] = {"codes": codes, "weights": largest_difference(*states) if states else None}
    return out


def across(folder: Path) -> dict[str, Any]:
    """A run started by two sharded processes goes on in one, and the other way round; and stops together on SIGTERM."""
    longer = (*SETTINGS, "train.length=6 steps")
    alone(folder / "one", *longer)

    def stop(event: Event) -> None:
        if event.kind == "step" and event.data["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)  # only the first process hears events

    first = wait(ranks(2, lambda rank: go(folder / "two", *longer, "train.strategy=fsdp2", on_event=stop)), 120)
    stopped = saved_state(folder / "two")[1]["step"]
    alone(folder / "two", *longer, resume=True)
    one, two = saved_state(folder / "one")[0], saved_state(folder / "two")[0]
    again = ("train.strategy=fsdp2",)
    codes = []
    for strategy in ("ddp", "fsdp2"):
        out = folder / f"exact-{strategy}"
        whole = folder / f"whole-{strategy}"
        again = (*longer, f"train.strategy={strategy}")
        codes += wait(ranks(2, lambda rank, o=whole, a=again: go(o, *a)), 120)
        codes += wait(ranks(2, lambda rank, o=out, a=again: go(o, *a, on_event=stop)), 120)
        codes += wait(ranks(2, lambda rank, o=out, a=again: go(o, *a, resume=True)), 120)
    exact = {s: differences(folder / f"whole-{s}", folder / f"exact-{s}") for s in ("ddp", "fsdp2")}
    return {"codes": first + codes, "stopped": stopped, "weights": largest_difference(one, two), "exact": exact}


def lost(folder: Path, how: signal.Signals = signal.SIGKILL) -> dict[str, Any]:
    """One of two processes dies (or hangs, with SIGSTOP); the other says so in one line and ends; the run can go on."""
    os.environ["OPENJEPA_RANK_TIMEOUT"] = "5"
    long = ("train.length=400 steps", "checkpoint.every=5 steps")

    def work(rank: int) -> None:
        try:
            go(folder / "run", *long)
        except OpenJepaError as error:
            (folder / f"error-{rank}.txt").write_text(str(error))
            os._exit(error.exit_code)

    children = ranks(2, work)
    deadline = time.monotonic() + 60
    while not (folder / "run/checkpoints/last.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(children[1], how)
    began = time.monotonic()
    code = wait(children[:1], 60)[0]
    seconds = time.monotonic() - began
    if how == signal.SIGSTOP:
        os.kill(children[1], signal.SIGKILL)
    os.waitpid(children[1], 0)
    message = (folder / "error-0.txt").read_text() if (folder / "error-0.txt").exists() else ""
    step = saved_state(folder / "run")[1]["step"]
    alone(folder / "run", f"train.length={step + 3} steps", "checkpoint.every=5 steps", resume=True)
    return {
        "code": code,
        "seconds": seconds,
        "message": message,
        "resumed": saved_state(folder / "run")[1]["step"] - step,
    }


def streams(folder: Path) -> dict[str, Any]:
    """Clips and images: two processes, each with its part of both, or each with one of them; against one process."""
    sources = [FakeVideos(24), Generated()]
    settings = (
        "data.streams=[{weight: 2}, {kind: images, source: photos, image_size: 24}]",
        "train.length=3 steps",
        "train.batch_size=9",
        "log.every=1 steps",
        "predictor.mask_tokens=5",  # one is never used: its gradient must not be waited for
    )

    def work(out: Path, *overrides: str) -> None:
        torch.set_num_threads(1)
        train(video_recipe(*settings, *overrides), sources, out=out, console=False)

    assert wait([in_child(lambda: work(folder / "one"))], 120) == [0]
    one, rows = saved_state(folder / "one")[0], numbers(folder / "one")
    ways = {
        "mix": ("train.strategy=ddp",),
        "mix in micro-batches": ("train.strategy=ddp", "train.micro_batch=2"),
        "mix sharded": ("train.strategy=fsdp2", "train.micro_batch=2"),
        "ranks": ("data.placement=ranks",),
        "ranks in micro-batches": ("data.placement=ranks", "train.micro_batch=2"),
    }
    out: dict[str, Any] = {}
    for name, way in ways.items():
        codes = wait(ranks(2, lambda rank, n=name, w=way: work(folder / n, *w)), 120)
        if codes != [0, 0]:
            out[name] = {"codes": codes}
            continue
        two, other = saved_state(folder / name)[0], numbers(folder / name)
        loss = max(abs(a["loss"] - b["loss"]) for a, b in zip(rows, other, strict=True))
        out[name] = {"codes": codes, "weights": largest_difference(one, two), "loss": loss}
    out["refused"] = refusals(folder, sources, settings)
    return out


def refusals(folder: Path, sources: list[Any], settings: tuple[str, ...]) -> dict[str, list[str]]:
    """What two processes say to placements that cannot be."""
    cases = {
        "fsdp2": ("data.placement=ranks", "train.strategy=fsdp2"),
        "statistics": ("data.placement=ranks", "objective.regularisers=[{kind: vicreg}]"),
    }
    said: dict[str, list[str]] = {}
    for name, way in cases.items():

        def work(rank: int, name: str = name, way: tuple[str, ...] = way) -> None:
            try:
                train(video_recipe(*settings, *way), sources, out=folder / f"refused-{name}", console=False)
            except OpenJepaError as error:
                (folder / f"{name}-{rank}.txt").write_text(str(error))

        wait(ranks(2, work), 60)
        said[name] = [path.read_text() for path in sorted(folder.glob(f"{name}-*.txt"))]
    return said


def staged(folder: Path) -> dict[str, Any]:
    """Two stages on two processes, of which only one meets the unreadable video in the last stage."""
    stages = "stages=[{name: one}, {name: two, changes: {data.clip.frames: 6}}]"
    settings = (stages, "train.length=1 steps", "train.batch_size=2", "data.max_bad_share=0.5")
    recipe = video_recipe(*settings)

    def work(rank: int) -> None:
        torch.set_num_threads(1)
        videos = FakeVideos(2, lengths=(24, 3), bad=(1,))
        parts = [StagePart(stage, videos) for stage in stage_recipes(recipe)]
        found = train_stages(recipe, parts, out=folder / "run", console=False)
        (folder / f"found-{rank}.json").write_text(json.dumps([dict(found.bad), found.finished]))

    codes = wait(ranks(2, work), 120)
    return {"codes": codes, "found": [json.loads(path.read_text()) for path in sorted(folder.glob("found-*.json"))]}


SCENARIOS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "same_weights": same_weights,
    "sharded_parts": sharded_parts,
    "across": across,
    "killed": lost,
    "streams": streams,
    "staged": staged,
    "hanging": lambda folder: lost(folder, signal.SIGSTOP),
}

if __name__ == "__main__":
    print(json.dumps(SCENARIOS[sys.argv[2]](Path(sys.argv[1]))))
