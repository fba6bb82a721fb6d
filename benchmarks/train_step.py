"""A full I-JEPA training step beside the I-JEPA parts of lightly and stable-pretraining.

    python benchmarks/train_step.py [--arch vit_tiny vit_small] [--batch 32] [--pixels 224] [--rounds 5] [--device cpu]

Same masks, sizes, depth, loss and optimizer in one process, contenders taking turns: target forward, context forward,
predictor, loss, backward, AdamW, EMA. The first table is float32, the second bf16 autocast where the hardware has it.
'ceiling' is the time the step's matrix products alone would take at the rate this machine multiplies the step's own
shapes in the same run. Peak memory is taken in a process per contender. Peers are optional; a missing one is named.
Aims: at least 1.15 times the best peer on a CPU, 2 times on a GPU (there with the compiled row).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from measure import Gemm, Times, console, describe, gemm_seconds, machine, paired_ratio, pin, save, show, take_turns
from peers import BUILDERS, INSTALL, Step
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from openjepa.config.schema import DataConfig, ModelConfig, MultiblockMask, NarrowPredictorConfig, Recipe
from openjepa.masking import build_masker
from openjepa.methods import build_method
from openjepa.models.sizes import Size, size_named
from openjepa.optim import build_optimizer, set_schedule
from openjepa.types import Batch, MaskGroup, Progress

RELEASE = MultiblockMask(context_mode="release", borders="release", size_draw="release")
OURS, COMPILED, PADDED = "openjepa", "openjepa, compiled", "openjepa, whole contexts*"


@dataclass(frozen=True)
class Setting:
    """What every contender of one table has in common."""

    arch: str
    pixels: int
    batch: int
    dtype: torch.dtype
    device: torch.device
    predictor_dim: int = 384
    predictor_depth: int = 6
    predictor_heads: int = 6

    @property
    def size(self) -> Size:
        """Width, depth and heads of the encoder."""
        return size_named(self.arch)

    @property
    def tokens(self) -> int:
        """Patches of an image."""
        return (self.pixels // 16) ** 2

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The precision of the forward pass."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def data(self, mask: MultiblockMask, count: int) -> tuple[Tensor, list[MaskGroup]]:
        """One batch of noise images and ``count`` mask groups on the device."""
        side = self.pixels // 16
        masker = build_masker(mask, (side, side), seed=0)
        places = torch.arange(self.batch)
        groups = [masker(places + step * self.batch, epoch=0, step=step).to(self.device) for step in range(count)]
        images = torch.randn(self.batch, 3, self.pixels, self.pixels, generator=torch.Generator().manual_seed(0))
        return images.to(self.device), groups


def openjepa_step(setting: Setting, compiled: bool = False) -> tuple[nn.Module, Step]:
    """Our step, from the same parts the training loop uses."""
    recipe = Recipe(
        name="bench",
        data=DataConfig(image_size=setting.pixels),
        mask=RELEASE,
        model=ModelConfig(arch=setting.arch, patch_size=16),
        predictor=NarrowPredictorConfig(
            dim=setting.predictor_dim, depth=setting.predictor_depth, heads=setting.predictor_heads
        ),
    )
    method = build_method(recipe).to(setting.device)
    method.train()
    optimizer = build_optimizer(method, recipe.optim)
    forward = torch.compile(method) if compiled else method
    places, progress = torch.arange(setting.batch, device=setting.device), Progress(0, 1000)

    def step(images: Tensor, group: MaskGroup) -> Tensor:
        count = method.count([group], len(images))
        with setting.autocast():
            output = forward(Batch({"image": images}, places, places), [group], progress, count)
        loss = output.loss_sum / count
        loss.backward()
        set_schedule(optimizer, 1.5e-4, 0.04)
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(0.996)
        return loss.detach()

    return method, step


def build(name: str, setting: Setting) -> tuple[nn.Module, Step]:
    """The contender called ``name``; ImportError when its library is not installed."""
    torch.manual_seed(0)
    if name in (OURS, COMPILED, PADDED):
        return openjepa_step(setting, compiled=name == COMPILED)
    return BUILDERS[name][1](setting)


def products(setting: Setting, group: MaskGroup) -> tuple[list[Gemm], float]:
    """Matrix products of one step, and the FLOPs of attention, which go with them (no recompute counted)."""
    batch, size = setting.batch, setting.size
    shown, asked = group.contexts[0].index.shape[1], group.targets[0].index.shape[1]
    gemms: list[Gemm] = []
    attention = 0.0

    def blocks(rows: int, tokens: int, dim: int, depth: int, ratio: float, backward: bool) -> None:
        nonlocal attention
        hidden = int(dim * ratio)
        for inner, columns in ((dim, 3 * dim), (dim, dim), (dim, hidden), (hidden, dim)):
            gemms.append(Gemm(rows * tokens, inner, columns, depth, backward))
        attention += 4.0 * rows * tokens**2 * dim * depth * (3 if backward else 1)

    patches, pixels = batch * setting.tokens, 3 * 16 * 16
    gemms.append(Gemm(patches, pixels, size.dim, 2, False))  # target and online stems
    gemms.append(Gemm(size.dim, patches, pixels, 1, False))  # gradient of the online stem's weight
    blocks(batch, setting.tokens, size.dim, size.depth, size.mlp_ratio, False)
    blocks(batch, shown, size.dim, size.depth, size.mlp_ratio, True)
    rows = batch * len(group.targets)
    gemms.append(Gemm(batch * shown, size.dim, setting.predictor_dim, 1, True))
    blocks(rows, shown + asked, setting.predictor_dim, setting.predictor_depth, 4.0, True)
    gemms.append(Gemm(rows * asked, setting.predictor_dim, size.dim, 1, True))
    return gemms, attention


def ceiling(setting: Setting, groups: list[MaskGroup]) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and FLOPs of a step that does nothing but multiply, averaged over ``groups``."""
    wall = busy = flops = 0.0
    for group in groups:
        gemms, attention = products(setting, group)
        linear = sum(gemm.flops for gemm in gemms)
        seconds = gemm_seconds(gemms, setting.dtype, setting.device)
        wall += seconds[0] * (linear + attention) / linear
        busy += seconds[1] * (linear + attention) / linear
        flops += linear + attention
    return wall / len(groups), busy / len(groups), flops / len(groups)


def peak_here(name: str, setting: Setting) -> float:
    """MiB this process gained at its highest while it built ``name`` and took two steps."""

    def status(field: str) -> float:
        line = next(ln for ln in Path("/proc/self/status").read_text().splitlines() if ln.startswith(field))
        return float(line.split()[1]) / 1024

    with contextlib.suppress(ImportError):
        build(name, replace(setting, arch="vit_tiny", batch=1))  # imports and lazy set-up belong to nobody's step
    cuda = setting.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 2**20 if cuda else status("VmRSS")
    _, step = build(name, setting)
    images, groups = setting.data(MultiblockMask() if name == PADDED else RELEASE, 2)
    for group in groups:
        step(images, group)
    return (torch.cuda.max_memory_allocated() / 2**20 if cuda else status("VmHWM")) - before


def peak_of(name: str, setting: Setting, threads: int) -> float | None:
    """:func:`peak_here` in a fresh process."""
    fields = {**asdict(setting), "dtype": str(setting.dtype).split(".")[1], "device": str(setting.device)}
    command = [
        sys.executable,
        __file__,
        "--memory-of",
        name,
        "--setting",
        json.dumps(fields),
        "--threads",
        str(threads),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        console.print(f"peak memory of {name} failed: {done.stderr.strip().splitlines()[-1]}", markup=False)
        return None
    return float(done.stdout.strip().splitlines()[-1])


def counted(step: Step, images: Tensor, group: MaskGroup) -> float:
    """FLOPs torch's own counter sees in one step: the proof that contenders do the same arithmetic."""
    with FlopCounterMode(display=False) as counter:
        step(images, group)
    return float(counter.get_total_flops())


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 products run in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def enter(setting: Setting, names: list[str], steps: int) -> Iterator[tuple[str, Callable[[], Tensor], float]]:
    """Build contenders one by one: name, a turn of ``steps`` steps, and the FLOPs torch counts for the first."""
    for name in names:
        try:
            _, step = build(name, setting)
        except ImportError as error:
            library = BUILDERS[name][0]
            console.print(f"{name}: not installed: {INSTALL[library]} ({error})", markup=False)
            continue
        images, groups = setting.data(MultiblockMask() if name == PADDED else RELEASE, steps)
        flops = float("nan") if name == COMPILED else counted(step, images, groups[0])

        def turn(step: Step = step, images: Tensor = images, groups: list[MaskGroup] = groups) -> Tensor:
            for group in groups:
                loss = step(images, group)
            return loss

        yield name, turn, flops


def run(setting: Setting, names: list[str], args: argparse.Namespace) -> dict[str, object]:
    """Measure one table and print it."""
    entered = list(enter(setting, names, args.steps))
    flops = {name: value for name, _, value in entered}
    times = take_turns({name: turn for name, turn, _ in entered}, args.rounds, setting.device)
    bare, bare_busy, total = ceiling(setting, setting.data(RELEASE, args.steps)[1])
    rows, results = [], {}
    for name, taken in times.items():
        per_step = taken.median / args.steps
        ratio = paired_ratio(taken, times[OURS])
        same = not name.endswith("*")
        peak = peak_of(name, setting, args.threads) if args.memory else None
        results[name] = {
            "seconds_per_step": [s / args.steps for s in taken.seconds],
            "images_per_s": setting.batch / per_step,
            "time_over_openjepa": ratio,
            "ceiling_share": bare / per_step if same else None,
            "processor_seconds_per_step": [s / args.steps for s in taken.processor],
            "processor_over_openjepa": taken.busy / times[OURS].busy,
            "processor_ceiling_share": bare_busy * args.steps / taken.busy if same else None,
            "peak_mib": peak,
            "counted_flops": None if flops[name] != flops[name] else flops[name],
        }
        rows.append(
            [
                name,
                f"{setting.batch / per_step:.1f}",
                f"±{taken.spread:.0%}",
                f"{per_step * 1e3:.0f}",
                f"{ratio[0]:.2f} ({ratio[1]:.2f}-{ratio[2]:.2f})",
                f"{bare / per_step:.0%}" if same else "-",
                f"{taken.busy / times[OURS].busy:.2f}",
                f"{bare_busy * args.steps / taken.busy:.0%}" if same else "-",
                "-" if peak is None else f"{peak:.0f}",
                f"{flops[name] / 1e9:.1f}",
            ]
        )
    kind = str(setting.dtype).split(".")[1]
    title = f"{setting.arch}/16, {setting.pixels} px, batch {setting.batch}, {kind}: full I-JEPA step"
    columns = [
        "contender",
        "images/s",
        "spread",
        "ms a step",
        "time / openjepa",
        "of ceiling",
        "cpu / openjepa",
        "of cpu ceiling",
        "peak MiB",
        "GFLOP",
    ]
    show(title, columns, rows, notes(setting, bare, total, names, args))
    verdict(times, setting.device)
    return {
        "setting": title,
        "ceiling_seconds": bare,
        "flops": total,
        "ceiling_processor_seconds": bare_busy,
        "contenders": results,
    }


def notes(setting: Setting, bare: float, total: float, names: list[str], args: argparse.Namespace) -> list[str]:
    rate = total / bare
    lines = [
        f"ceiling: {total / 1e9:.1f} GFLOP of matrix products at {rate / 1e9:.1f} GFLOP/s, this machine's rate at the "
        f"step's own shapes: {bare * 1e3:.0f} ms",
        "GFLOP: what torch's counter sees in a first step (CPU attention may be missing, for all alike)",
        "cpu columns: processor time, which does not count waiting for neighbours; trust it with --threads 1 on a busy machine",
        f"{args.rounds} rounds of {args.steps} steps in turns, median; predictor {setting.predictor_dim} wide, "
        f"{setting.predictor_depth} deep, {setting.predictor_heads} heads",
    ]
    if PADDED in names:
        lines.append("* other arithmetic: whole contexts (our default) are about 1.7 times the work;")
        lines.append("  stable-pretraining as shipped predicts all targets of an image in one row, from its own masks")
    if args.peak_tflops:
        lines.append(f"MFU = of ceiling x {rate / 1e12 / args.peak_tflops:.3f} (over {args.peak_tflops} TFLOP/s)")
    return lines


def verdict(times: dict[str, Times], device: torch.device) -> None:
    """Our ratio to the best peer that does the same arithmetic."""
    peers = {name: taken for name, taken in times.items() if name in BUILDERS and not name.endswith("*")}
    if not peers:
        console.print("no peer installed: nothing to compare with")
        return
    best = min(peers, key=lambda name: peers[name].median)
    mine = COMPILED if COMPILED in times else OURS
    aim = 2.0 if device.type == "cuda" else 1.15
    ratio, low, high = paired_ratio(peers[best], times[mine])
    word = "undecided, the rounds disagree" if low < aim <= high else "met" if ratio >= aim else "missed"
    console.print(
        f"{mine} is {ratio:.2f}x ({low:.2f}-{high:.2f}) as fast as {best}, the best peer; aim {aim}x: {word}\n"
    )


def quiet() -> None:
    """Keep the peers' log lines out of the tables."""
    logging.disable(logging.WARNING)
    with contextlib.suppress(ImportError):
        from loguru import logger

        logger.disable("stable_pretraining")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["vit_tiny", "vit_small"])
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps per turn, each with its own masks")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="add our compiled step (always on CUDA)")
    parser.add_argument("--only", nargs="+", help="contenders to run (openjepa always does)")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out the peak-memory processes")
    parser.add_argument("--peak-tflops", type=float, help="the device's dense peak, for MFU (H100/H200 bf16: 989)")
    parser.add_argument("--no-save", dest="save", action="store_false", help="do not write benchmarks/results")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    pin(args.threads)
    warnings.filterwarnings("ignore")
    quiet()
    if args.memory_of:
        fields = json.loads(args.setting)
        dtype, device = getattr(torch, fields.pop("dtype")), torch.device(fields.pop("device"))
        sys.stdout.write(f"\n{peak_here(args.memory_of, Setting(dtype=dtype, device=device, **fields))}\n")
        return
    device = torch.device(args.device)
    facts = machine(device)
    describe(facts)
    names = [OURS, *([COMPILED] if args.compile or device.type == "cuda" else []), *BUILDERS, PADDED]
    if args.only:
        names = [name for name in names if name == OURS or name in args.only]
    tables = []
    for precision in args.precision:
        if precision == "bf16" and not has_bf16(device):
            console.print("bf16: not in this hardware, table left out")
            continue
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        for arch in args.arch:
            tables.append(run(Setting(arch, args.pixels, args.batch, dtype, device), names, args))
            facts["load_after"] = machine(device)["load"]
            if args.save:
                save(f"train_step-{device.type}", {"machine": facts, "args": vars(args), "tables": tables})


if __name__ == "__main__":
    main()
