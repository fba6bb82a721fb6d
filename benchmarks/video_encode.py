"""The frozen video encoder beside Hugging Face's VJEPA2Model: same weights, same clips, in one process, in turns.

    python benchmarks/video_encode.py [--arch vit_tiny vit_base] [--batch 2] [--frames 16] [--pixels 224] [--device cpu]

transformers draws the weights and writes them; ours are read from that directory (openjepa.hub.vjepa2_hf). Before anything is
timed, outputs in float32 must agree to 1e-5 of their largest. The first table is float32, the second bf16 autocast where the
hardware has it. 'ceiling' is the time the matrix products alone would take (attention's at the rate of the linear layers).
On CUDA both are also compiled. Aims: ViT-T 1.2 times, ViT-B 1.0 times on a CPU; 1.5 times on a GPU in bf16, compiled.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from measure import Gemm, Times, console, describe, gemm_seconds, machine, paired_ratio, pin, save, show, take_turns
from torch import Tensor
from train_step import has_bf16

from openjepa.hub.vjepa2_hf import open_vjepa2
from openjepa.models import positions
from openjepa.models.sizes import Size, size_named
from openjepa.models.vit import VisionTransformer

OURS, THEIRS = "openjepa", "VJEPA2Model"
AIMS = {"vit_tiny": 1.2, "vit_base": 1.0}
AGREE = 1e-5


@dataclass(frozen=True)
class Setting:
    """What both contenders of one table have in common."""

    arch: str
    frames: int
    pixels: int
    batch: int
    dtype: torch.dtype
    device: torch.device

    @property
    def size(self) -> Size:
        """Width, depth and heads."""
        return size_named(self.arch)

    @property
    def tokens(self) -> int:
        """Tubelets of a clip."""
        return self.frames // 2 * (self.pixels // 16) ** 2

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The precision of the forward pass."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def products(self) -> tuple[list[Gemm], float]:
        """Matrix products of one forward pass, and the FLOPs of attention."""
        size, rows = self.size, self.batch * self.tokens
        hidden = int(size.dim * size.mlp_ratio)
        shapes = ((size.dim, 3 * size.dim), (size.dim, size.dim), (size.dim, hidden), (hidden, size.dim))
        gemms = [Gemm(rows, inner, columns, size.depth, False) for inner, columns in shapes]
        gemms.append(Gemm(rows, 3 * 2 * 16 * 16, size.dim, 1, False))
        return gemms, 4.0 * rows * self.tokens * size.dim * size.depth


def models(setting: Setting) -> tuple[VisionTransformer, Any]:
    """Our encoder and theirs with one set of random weights, in evaluation mode on the device."""
    from transformers import VJEPA2Config, VJEPA2Model

    torch.manual_seed(0)
    size = setting.size
    config = VJEPA2Config(
        crop_size=setting.pixels, frames_per_clip=setting.frames, hidden_size=size.dim, num_hidden_layers=size.depth,
        num_attention_heads=size.heads, mlp_ratio=size.mlp_ratio, pred_hidden_size=48, pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
    )  # fmt: skip
    theirs = VJEPA2Model(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = open_vjepa2(folder).method.encoder
    return ours.to(setting.device).eval(), theirs.to(setting.device)


def contenders(setting: Setting, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    """Every way of encoding one batch, by name."""
    ours, theirs = models(setting)
    shape = (setting.batch, 3, setting.frames, setting.pixels, setting.pixels)
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(setting.device)
    swapped = clips.transpose(1, 2).contiguous()  # (B, T, C, H, W), as transformers takes them

    def way(forward: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.inference_mode(), setting.autocast():
                return forward()

        return run

    def hugging(model: Any) -> Callable[[], Tensor]:
        return lambda: model(pixel_values_videos=swapped, skip_predictor=True).last_hidden_state

    found = {OURS: way(lambda: ours(clips)), THEIRS: way(hugging(theirs))}
    if compiled:
        fast, other = torch.compile(ours), torch.compile(theirs)
        found |= {f"{OURS}, compiled": way(lambda: fast(clips)), f"{THEIRS}, compiled": way(hugging(other))}
    return found


def difference(ways: dict[str, Callable[[], Tensor]]) -> float:
    """Largest difference of the outputs over the largest output."""
    mine, other = ways[OURS]().float(), ways[THEIRS]().float()
    return float((mine - other).abs().max() / other.abs().max())


def tables_computed(work: Callable[[], Tensor]) -> int:
    """How often a forward pass computes rotary tables."""
    count = 0
    original = positions.rotary3d

    def counted(*args: Any) -> Tensor:
        nonlocal count
        count += 1
        return original(*args)

    positions.rotary3d = counted
    try:
        work()
    finally:
        positions.rotary3d = original
    return count


def run(setting: Setting, args: argparse.Namespace) -> dict[str, object]:
    """One table: measured, shown, and as plain data."""
    ways = contenders(setting, args.compile or setting.device.type == "cuda")
    apart = difference(ways)
    if setting.dtype == torch.float32 and setting.device.type == "cpu":
        assert apart < AGREE, f"the two encoders differ by {apart:.1e}"
    times = take_turns(ways, args.rounds, setting.device)
    gemms, attention = setting.products()
    linear = sum(gemm.flops for gemm in gemms)
    bare, busy = (s * (linear + attention) / linear for s in gemm_seconds(gemms, setting.dtype, setting.device))
    rows = []
    for name, taken in times.items():
        ratio, low, high = paired_ratio(times[THEIRS], taken)
        cells = (f"{setting.batch / taken.median:.2f}", f"{taken.median * 1e3:.0f}", f"{taken.busy * 1e3:.0f}",
                 f"{ratio:.2f} ({low:.2f}-{high:.2f})", f"{times[THEIRS].busy / max(taken.busy, 1e-9):.2f}",
                 f"{busy / max(taken.busy, 1e-9):.0%}" if setting.device.type == "cpu" else f"{bare / taken.median:.0%}")  # fmt: skip
        rows.append((name, *cells))
    precision = "fp32" if setting.dtype == torch.float32 else "bf16"
    again = tables_computed(ways[OURS])
    show(
        f"{setting.arch} {precision}, {setting.batch} clips of {setting.frames} x {setting.pixels}²",
        ("", "clips/s", "ms", "cpu ms", f"of {THEIRS}", "cpu ratio", "of ceiling"),
        rows,
        (
            f"outputs differ by {apart:.1e} of the largest; rotary tables computed in a forward pass: {again}",
            f"ceiling: {(linear + attention) / 1e9:.0f} GFLOP ({attention / (linear + attention):.0%} attention) in "
            f"{bare * 1e3:.0f} ms, {busy * 1e3:.0f} ms of processor time",
        ),
    )
    verdict(setting, times)
    return {
        "arch": setting.arch, "precision": precision, "batch": setting.batch, "frames": setting.frames,
        "pixels": setting.pixels, "difference": apart, "tables_computed": again, "gflop": (linear + attention) / 1e9,
        "ceiling_seconds": bare, "ceiling_processor": busy,
        "seconds": {name: taken.seconds for name, taken in times.items()},
        "processor": {name: taken.processor for name, taken in times.items()},
    }  # fmt: skip


def verdict(setting: Setting, times: dict[str, Times]) -> None:
    """Our ratio against the aim."""
    cuda = setting.device.type == "cuda"
    mine = f"{OURS}, compiled" if f"{OURS}, compiled" in times and cuda else OURS
    aim = 1.5 if cuda else AIMS.get(setting.arch, 1.0)
    ratio, low, high = paired_ratio(times[THEIRS], times[mine])
    word = "undecided, the rounds disagree" if low < aim <= high else "met" if ratio >= aim else "missed"
    console.print(f"{mine} is {ratio:.2f}x ({low:.2f}-{high:.2f}) as fast as {THEIRS}; aim {aim}x: {word}\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["vit_tiny", "vit_base"])
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="add compiled rows (always on CUDA)")
    parser.add_argument("--no-save", dest="save", action="store_false", help="do not write benchmarks/results")
    return parser.parse_args()


def main() -> None:
    args = parse()
    pin(args.threads)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    device = torch.device(args.device)
    facts = machine(device)
    describe(facts)
    tables = []
    for precision in args.precision:
        if precision == "bf16" and not has_bf16(device):
            console.print("bf16: not in this hardware, table left out")
            continue
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        for arch in args.arch:
            tables.append(run(Setting(arch, args.frames, args.pixels, args.batch, dtype, device), args))
            if args.save:
                name = f"video_encode-{device.type}" + (f"-{args.threads}threads" if args.threads > 1 else "")
                save(name, {"machine": facts, "args": vars(args), "tables": tables})


if __name__ == "__main__":
    main()
