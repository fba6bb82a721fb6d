"""Mask sampling: openjepa's vectorised samplers beside plain per-sample loops in the published manner.

    python benchmarks/masks.py [--only images|video] [--batch 2048] [--side 16] [--rounds 5] [--no-step]

Aims for images: at least 20 times the loop, and under 1 % of the time a full I-JEPA step of ViT-S/16 takes for the same
images. Video: V-JEPA's short and long tubes for 8x14x14 tokens, 24 clips, and 32x24x24, 6 clips, as published; the share is
of the matrix products of ViT-S/16's target forward alone, so that of a whole step is several times smaller.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch
from measure import Gemm, Times, console, describe, gemm_seconds, machine, paired_ratio, pin, save, show, take_turns
from torch import Tensor

from openjepa.config.schema import MaskConfig, MultiblockMask, RandomTubeMask, TubesMask
from openjepa.masking import build_masker

RELEASE = MultiblockMask(context_mode="release", borders="release", size_draw="release")
CPU = torch.device("cpu")
CLIPS = (((8, 14, 14), 24), ((32, 24, 24), 6))  # token grid and batch of V-JEPA and of V-JEPA 2's cooldown


def loop_size(draw: float, scale: tuple[float, float], aspect: tuple[float, float], side: int) -> tuple[int, int]:
    """Block height and width as published: one uniform for scale and aspect, at most ``side`` - 1."""
    area = int(side * side * (scale[0] + draw * (scale[1] - scale[0])))
    ratio = aspect[0] + draw * (aspect[1] - aspect[0])
    return min(round(math.sqrt(area * ratio)), side - 1), min(round(math.sqrt(area / ratio)), side - 1)


def loop_block(size: tuple[int, int], side: int) -> Tensor:
    """A ``(side, side)`` mask with one block at a random place, from torch's global generator."""
    top = int(torch.randint(0, side - size[0], (1,)))
    left = int(torch.randint(0, side - size[1], (1,)))
    mask = torch.zeros(side, side, dtype=torch.int32)
    mask[top : top + size[0], left : left + size[1]] = 1
    return mask


def loop_masks(batch: int, side: int, step: int, targets: int = 4, min_keep: int = 10) -> tuple[Tensor, list[Tensor]]:
    """Multi-block masks one sample at a time: contexts ``(B, Kc)`` cut to the batch minimum, targets of ``(B, Kt)``."""
    generator = torch.Generator().manual_seed(step)
    target_draw, context_draw = (float(torch.rand(1, generator=generator)) for _ in range(2))
    target_size = loop_size(target_draw, (0.15, 0.2), (0.75, 1.5), side)
    context_size = loop_size(context_draw, (0.85, 1.0), (1.0, 1.0), side)
    contexts: list[Tensor] = []
    chosen: list[list[Tensor]] = [[] for _ in range(targets)]
    for _ in range(batch):
        allowed = torch.ones(side, side, dtype=torch.int32)
        for row in chosen:
            block = loop_block(target_size, side)
            row.append(torch.nonzero(block.flatten()).flatten())
            allowed *= 1 - block
        ids = torch.nonzero((loop_block(context_size, side) * allowed).flatten()).flatten()
        while len(ids) <= min_keep:  # so rare at this size that dropping targets is left out
            ids = torch.nonzero((loop_block(context_size, side) * allowed).flatten()).flatten()
        contexts.append(ids)
    shortest = min(len(ids) for ids in contexts)
    return torch.stack([ids[:shortest] for ids in contexts]), [torch.stack(row) for row in chosen]


def samplers(batch: int, side: int) -> tuple[dict[str, Callable[[], object]], list[str]]:
    """Contenders by name, each a call that draws the masks of one new batch; and notes on what is missing."""
    steps = {"count": 0}

    def ours(mask: MultiblockMask) -> Callable[[], object]:
        masker = build_masker(mask, (side, side), seed=0)

        def draw() -> object:
            steps["count"] += 1
            return masker(torch.arange(batch) + steps["count"] * batch, epoch=0, step=steps["count"])

        return draw

    def loop() -> object:
        steps["count"] += 1
        return loop_masks(batch, side, steps["count"])

    found: dict[str, Callable[[], object]] = {
        "per-sample loop": loop,
        "openjepa release": ours(RELEASE),
        "openjepa padded": ours(MultiblockMask()),
        "openjepa subset": ours(MultiblockMask(context_mode="subset")),
    }
    notes: list[str] = []
    try:
        from lightly.data.ijepa_collate import IJEPAMaskCollator

        collate = IJEPAMaskCollator(
            (side * 16, side * 16), 16, (0.85, 1.0), (0.15, 0.2), (0.75, 1.5), nenc=1, npred=4, min_keep=10
        )
        found["lightly collator"] = lambda: collate([0] * batch)
    except ImportError:
        notes.append("not installed: pip install lightly (its collator would be one more row)")
    return found, notes


def step_seconds_per_image(side: int, batch: int, rounds: int) -> float:
    """Seconds a full I-JEPA step of ViT-S/16 takes per image of a ``side`` x ``side`` grid on this CPU."""
    from train_step import Setting, openjepa_step

    setting = Setting("vit_small", 16 * side, batch, torch.float32, CPU)
    _, step = openjepa_step(setting)
    images, groups = setting.data(RELEASE, 1)
    return take_turns({"step": lambda: step(images, groups[0])}, rounds, CPU)["step"].median / batch


def check_same_distribution(batch: int, side: int) -> tuple[float, float]:
    """Mean context tokens after the cut of both samplers over 60 batches of 128."""
    masker = build_masker(RELEASE, (side, side), seed=0)
    loop = [loop_masks(128, side, step)[0].shape[1] for step in range(60)]
    ours = [masker(torch.arange(128) + 128 * s, epoch=0, step=s).contexts[0].index.shape[1] for s in range(60)]
    return sum(loop) / 60, sum(ours) / 60


def loop_tubes(batch: int, grid: tuple[int, int, int], step: int) -> list[tuple[Tensor, Tensor]]:
    """Short and long tubes one sample at a time: per group contexts and targets, cut to their batch minima."""
    found = []
    for blocks, scale in ((8, 0.15), (2, 0.7)):
        generator = torch.Generator().manual_seed(step)
        draw = [float(torch.rand(1, generator=generator)) for _ in range(3)][2]  # temporal and spatial scale are fixed
        area, ratio = int(grid[1] * grid[2] * scale), 0.75 + draw * 0.75
        rows = min(round(math.sqrt(area * ratio)), grid[1])
        columns = min(round(math.sqrt(area / ratio)), grid[2])
        contexts: list[Tensor] = []
        targets: list[Tensor] = []
        while len(contexts) < batch:
            allowed = torch.ones(grid, dtype=torch.int32)
            for _ in range(blocks):
                top = int(torch.randint(0, grid[1] - rows + 1, (1,)))
                left = int(torch.randint(0, grid[2] - columns + 1, (1,)))
                block = torch.ones(grid, dtype=torch.int32)
                block[:, top : top + rows, left : left + columns] = 0
                allowed *= block
            if allowed.any():
                contexts.append(torch.nonzero(allowed.flatten()).flatten())
                targets.append(torch.nonzero(allowed.flatten() == 0).flatten())
        shown, hidden = (min(len(ids) for ids in rows) for rows in (contexts, targets))
        found.append((torch.stack([ids[:shown] for ids in contexts]), torch.stack([ids[:hidden] for ids in targets])))
    return found


def tube_samplers(batch: int, grid: tuple[int, int, int]) -> dict[str, Callable[[], object]]:
    """Contenders by name, each a call that draws the masks of one new batch of clips."""
    steps = {"count": 0}

    def ours(mask: MaskConfig) -> Callable[[], object]:
        masker = build_masker(mask, grid, seed=0)

        def draw() -> object:
            steps["count"] += 1
            return masker(torch.arange(batch) + steps["count"] * batch, epoch=0, step=steps["count"])

        return draw

    def loop() -> object:
        steps["count"] += 1
        return loop_tubes(batch, grid, steps["count"])

    return {
        "per-sample loop": loop,
        "openjepa release": ours(TubesMask(context_mode="release")),
        "openjepa padded": ours(TubesMask()),
        "openjepa subset": ours(TubesMask(context_mode="subset")),
        "openjepa random tubes": ours(RandomTubeMask()),
    }


def repeated(draw: Callable[[], object], times: int) -> Callable[[], object]:
    """A call that draws ``times`` batches, so that a round is long enough to time."""
    return lambda: [draw() for _ in range(times)]


def target_seconds(tokens: int, dim: int = 384, depth: int = 12) -> float:
    """Seconds the matrix products of ViT-S's forward take for one clip on this CPU: a lower bound of any step."""
    parts = 8 if tokens > 4096 else 1  # the rate is that of fewer rows; less memory and time
    shapes = [(dim, 3 * dim), (dim, dim), (dim, 4 * dim), (4 * dim, dim)]
    gemms = [Gemm(tokens // parts, inner, columns, depth * parts, False) for inner, columns in shapes]
    return gemm_seconds(gemms, torch.float32, CPU)[0]


def same_tubes(batch: int, grid: tuple[int, int, int], batches: int = 30) -> str:
    """Mean context shares after the cut of both samplers, in words."""
    masker, tokens = build_masker(TubesMask(context_mode="release"), grid, seed=0), math.prod(grid)
    loop = [[context.shape[1] for context, _ in loop_tubes(batch, grid, step)] for step in range(batches)]
    ours = [
        [context.index.shape[1] for context in masker(torch.arange(batch) + batch * s, epoch=0, step=s).contexts]
        for s in range(batches)
    ]
    short, long = ([sum(row[pair] for row in rows) / batches / tokens for rows in (loop, ours)] for pair in (0, 1))
    return (
        f"same masks: share of the grid shown after the cut, {batches} batches: short loop {short[0]:.3f}, openjepa "
        f"{short[1]:.3f}; long loop {long[0]:.3f}, openjepa {long[1]:.3f}"
    )


def video(rounds: int, facts: dict[str, object], *, keep: bool) -> None:
    """Time tubes on both published grids; with ``keep`` write the numbers down."""
    results: dict[str, object] = {}
    for grid, batch in CLIPS:
        repeats = 5
        contenders = {name: repeated(draw, repeats) for name, draw in tube_samplers(batch, grid).items()}
        times = take_turns(contenders, rounds, CPU)
        per_clip = target_seconds(math.prod(grid))
        rows = []
        for name, taken in times.items():
            found = tube_row(times["per-sample loop"], taken, repeats * batch, per_clip)
            results[f"{name} {grid}"] = found
            rows.append(
                [
                    name,
                    f"{taken.median / repeats * 1e3:.2f}",
                    f"±{taken.spread:.0%}",
                    f"{found['ratio']:.1f}x ({found['ratio_range'][0]:.1f}-{found['ratio_range'][1]:.1f})",
                    f"{found['processor_ratio']:.1f}x",
                    f"{found['share_of_target_forward']:.4%}",
                ]
            )
        where = "x".join(map(str, grid))
        columns = ["sampler", "ms a batch", "spread", "loop / this", "cpu ratio", "share of ViT-S target forward"]
        notes = [same_tubes(batch, grid), f"target forward, products only: {per_clip:.2f} s a clip"]
        show(f"tubes, {batch} clips of {where} tokens ({rounds} rounds in turns)", columns, rows, notes)
    if keep:
        save("masks_video", {"machine": facts, "rounds": rounds, "samplers": results})


def tube_row(loop: Times, taken: Times, clips: int, per_clip: float) -> dict[str, Any]:
    """The numbers of one contender."""
    ratio, low, high = paired_ratio(loop, taken)
    return {
        "seconds": taken.seconds,
        "processor_seconds": taken.processor,
        "clips": clips,
        "ratio": ratio,
        "ratio_range": [low, high],
        "processor_ratio": loop.busy / taken.busy,
        "share_of_target_forward": taken.median / clips / per_clip,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--step-batch", type=int, default=32)
    parser.add_argument("--step-rounds", type=int, default=3)
    parser.add_argument("--no-step", action="store_true", help="leave out the training step")
    parser.add_argument("--only", choices=["images", "video"], help="one of the two tables; none: both")
    parser.add_argument("--no-save", dest="save", action="store_false", help="do not write benchmarks/results")
    args = parser.parse_args()
    pin(args.threads)
    facts = machine(CPU)
    describe(facts)
    if args.only != "images":
        video(args.rounds, facts, keep=args.save)
    if args.only != "video":
        images(args, facts)


def images(args: argparse.Namespace, facts: dict[str, object]) -> None:
    """Time multi-block masks of images."""
    contenders, notes = samplers(args.batch, args.side)
    times = take_turns(contenders, args.rounds, CPU)
    per_image = None
    if not args.no_step:
        per_image = step_seconds_per_image(args.side, args.step_batch, args.step_rounds)
    rows, results = [], {}
    for name, taken in times.items():
        ratio, low, high = paired_ratio(times["per-sample loop"], taken)
        share = taken.median / args.batch / per_image if per_image else None
        busy_ratio = times["per-sample loop"].busy / taken.busy
        results[name] = {
            "seconds": taken.seconds,
            "processor_seconds": taken.processor,
            "ratio": ratio,
            "ratio_range": [low, high],
            "processor_ratio": busy_ratio,
            "share_of_step": share,
        }
        rows.append(
            [
                name,
                f"{taken.median * 1e3:.1f}",
                f"±{taken.spread:.0%}",
                f"{taken.median / args.batch * 1e6:.1f}",
                f"{ratio:.1f}x ({low:.0f}-{high:.0f})",
                f"{taken.busy * 1e3:.1f}",
                f"{busy_ratio:.1f}x",
                "-" if share is None else f"{share:.3%}",
            ]
        )
    loop_tokens, our_tokens = check_same_distribution(args.batch, args.side)
    notes.append(
        f"same masks: context after the cut, 60 batches of 128: loop {loop_tokens:.1f}, openjepa {our_tokens:.1f}"
    )
    if per_image:
        pixels = 16 * args.side
        notes.append(
            f"step: full I-JEPA step of ViT-S/16 at {pixels} px, fp32, {args.threads} threads: {per_image * 1e3:.0f} ms an image"
        )
    title = f"multi-block masks, batch {args.batch:,} on a {args.side}x{args.side} grid ({args.rounds} rounds in turns)"
    columns = [
        "sampler",
        "ms a batch",
        "spread",
        "us a sample",
        "loop / this",
        "cpu ms",
        "cpu ratio",
        "share of a ViT-S/16 step",
    ]
    show(title, columns, rows, notes)
    ratio = results["openjepa padded"]["ratio"]
    console.print(f"aim >= 20x: {'met' if ratio >= 20 else 'missed'} ({ratio:.1f}x, default 'padded' masks)")
    if per_image:
        share = results["openjepa padded"]["share_of_step"]
        console.print(f"aim < 1 % of the step: {'met' if share < 0.01 else 'missed'} ({share:.3%})")
    if args.save:
        save("masks", {"machine": facts, "args": vars(args), "step_seconds_per_image": per_image, "samplers": results})


if __name__ == "__main__":
    main()
