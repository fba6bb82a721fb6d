"""A full V-JEPA training step beside the same model with the predictor run once per mask, in a loop.

    python benchmarks/video_step.py [--arch vit_tiny vit_small] [--frames 16] [--pixels 112] [--batch 4] [--device cpu]

One method, optimizer, loss and batch; short and long tubes of the recipe ``vjepa-vits16-1gpu``. Ours predicts both mask pairs in
one call, tokens in the order of the grid (context and target of a pair are the whole clip, so nothing is padded). Beside it,
per mask pair in a loop: the same call; context and queries joined and padded, padding masked as keys; and the published way,
rows cut to the shortest of the batch ('release', other arithmetic: it drops tokens). Contenders take turns in one process.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from measure import console, describe, machine, paired_ratio, pin, save, show, take_turns
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from train_step import has_bf16

from openjepa.config import Recipe, load_recipe
from openjepa.masking import build_masker
from openjepa.methods import MaskedLatent
from openjepa.methods.masked_latent import join_contexts, stack_targets
from openjepa.models import NarrowPredictor
from openjepa.optim import build_optimizer
from openjepa.types import Batch, Ids, MaskGroup, Progress, Tokens

OURS, LOOP, PADDED, RELEASE = "openjepa", "loop", "loop, padded", "loop, published cut*"
MODES = {OURS: "padded", LOOP: "padded", PADDED: "padded", RELEASE: "release"}


class Looped(MaskedLatent):
    """The same method, one predictor call per mask pair. whole: in the order of the grid where the masks allow it."""

    whole = False

    def predict(self, images: Tensor, group: MaskGroup) -> tuple[Tensor, Ids, Tokens]:
        """As :meth:`MaskedLatent.predict`, pair by pair."""
        assert isinstance(self.predictor, NarrowPredictor)
        seen = [self.online.forward_features(images, keep=ids) for ids in group.contexts]
        found = []
        for number, (i, j) in enumerate(group.pairs):
            context = Tokens(seen[i], group.grid, group.contexts[i])
            token = (group.mask_tokens[number],)
            found.append(self.predictor.predict(context, group.targets[j], token, self.whole and group.complement))
        query = stack_targets(group)
        longest = query.index.shape[1]
        rows = [F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in found]
        return torch.cat(rows), query, join_contexts(seen, group)


@dataclass(frozen=True)
class Setting:
    """What every contender of one table has in common."""

    arch: str
    frames: int
    pixels: int
    batch: int
    depth: int
    dtype: torch.dtype
    device: torch.device

    def recipe(self, mode: str) -> Recipe:
        """The recipe of a contender."""
        changes = (
            f"model.arch={self.arch}", f"data.image_size={self.pixels}", f"data.clip.frames={self.frames}",
            f"predictor.depth={self.depth}", f"mask.context_mode={mode}", "train.activation_checkpointing=false",
        )  # fmt: skip
        return load_recipe("vjepa-vits16-1gpu", changes)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The precision of the forward pass."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def contender(name: str, setting: Setting, steps: int) -> tuple[Callable[[], Tensor], float, float]:
    """A turn of ``steps`` steps, FLOPs torch counts for the first, and the loss before it."""
    torch.manual_seed(0)
    recipe = setting.recipe(MODES[name])
    method = (MaskedLatent if name == OURS else Looped)(recipe).to(setting.device)
    if isinstance(method, Looped):
        method.whole = name == LOOP
    method.train()
    optimizer = build_optimizer(method, recipe.optim)
    masker = build_masker(recipe.mask, recipe.grid, seed=0)
    places = torch.arange(setting.batch)
    groups = [masker(places + k * setting.batch, epoch=0, step=k).to(setting.device) for k in range(steps)]
    shape = (setting.batch, 3, setting.frames, setting.pixels, setting.pixels)
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(setting.device)

    def step(group: MaskGroup) -> Tensor:
        batch = Batch({group.group: clips}, places.to(setting.device), places.to(setting.device))
        count = method.count([group], setting.batch)
        with setting.autocast():
            output = method(batch, [group], Progress(0, 1000), count)
        loss = output.loss_sum / count
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(0.998)
        return loss.detach()

    with FlopCounterMode(display=False) as counter:
        first = float(step(groups[0]))
    return lambda: [step(group) for group in groups][-1], float(counter.get_total_flops()), first


def run(setting: Setting, args: argparse.Namespace) -> dict[str, object]:
    """Measure one table and print it."""
    made = {name: contender(name, setting, args.steps) for name in MODES}
    same = [first for name, (_, _, first) in made.items() if name != RELEASE]
    tolerance = 1e-5 if setting.dtype == torch.float32 else 1e-2
    assert all(math.isclose(first, same[0], rel_tol=tolerance) for first in same), f"losses differ: {same}"
    times = take_turns({name: turn for name, (turn, _, _) in made.items()}, args.rounds, setting.device)
    rows, results = [], {}
    for name, taken in times.items():
        ratio, per_step = paired_ratio(taken, times[OURS]), taken.median / args.steps
        busy = taken.busy / times[OURS].busy
        results[name] = {
            "seconds_per_step": [s / args.steps for s in taken.seconds],
            "processor_seconds_per_step": [s / args.steps for s in taken.processor],
            "time_over_openjepa": ratio, "processor_over_openjepa": busy,
            "counted_flops": made[name][1], "first_loss": made[name][2],
        }  # fmt: skip
        rows.append(
            (name, f"{setting.batch / per_step:.2f}", f"{per_step * 1e3:.0f}", f"{taken.busy / args.steps * 1e3:.0f}",
             f"{ratio[0]:.2f} ({ratio[1]:.2f}-{ratio[2]:.2f})", f"{busy:.2f}", f"{made[name][1] / 1e9:.1f}",
             f"{made[name][2]:.5f}")
        )  # fmt: skip
    kind = str(setting.dtype).split(".")[1]
    title = (
        f"{setting.arch}/16, {setting.batch} clips of {setting.frames} x {setting.pixels}², {kind}: full V-JEPA step"
    )
    columns = ("contender", "clips/s", "ms", "cpu ms", "time / openjepa", "cpu / openjepa", "GFLOP", "first loss")
    notes = (
        f"{args.rounds} rounds of {args.steps} steps in turns, median; predictor {setting.depth} blocks deep",
        "GFLOP: what torch's counter sees in a first step (attention on a CPU may be missing, for all alike)",
        "* other arithmetic: context and target rows cut to the shortest of the batch",
    )
    show(title, columns, rows, notes)
    return {"setting": title, "contenders": results}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["vit_tiny", "vit_small"])
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--pixels", type=int, default=112)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--depth", type=int, default=6, help="blocks of the predictor")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps per turn, each with its own masks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--no-save", dest="save", action="store_false", help="do not write benchmarks/results")
    return parser.parse_args()


def main() -> None:
    args = parse()
    pin(args.threads)
    warnings.filterwarnings("ignore")
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
            setting = Setting(arch, args.frames, args.pixels, args.batch, args.depth, dtype, device)
            tables.append(run(setting, args))
            facts["load_after"] = machine(device)["load"]
            if args.save:
                save(f"video_step-{device.type}", {"machine": facts, "args": vars(args), "tables": tables})


if __name__ == "__main__":
    main()
