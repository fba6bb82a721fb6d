"""What a linear grid costs beside one head: 20 heads of 10 classes on 50,000 cached features of width 768.

    python benchmarks/linear_grid.py [--samples 50000] [--width 768] [--classes 10] [--rounds 5] [--threads 1 2]

Heads are trained by the code of ``openjepa evaluate linear-grid`` (batch normalisation, SGD, three epochs of batches of 1,024),
once with one head and once with twenty, in turns. 'ordinary head' is what a user would write for one: nn.BatchNorm1d,
nn.Linear, autograd, torch.optim.SGD on the same batches. Aim: twenty heads cost at most 1.5 times one, in the precision
that ``auto`` picks on this machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict

import torch
from measure import Times, describe, machine, paired_ratio, pin, save, show, take_turns
from torch import nn

from openjepa.evaluation.heads import HeadGrid, multiplies_bf16, train_heads

AIM = 1.5
BATCH, EPOCHS = 1024, 3


def grid(heads: int, products: str, batch_norm: bool = True) -> HeadGrid:
    """``heads`` different learning rates around .1."""
    lrs = tuple(0.1 * (1 + i / heads) for i in range(heads))
    return HeadGrid(lrs, (1e-4,), EPOCHS, BATCH, "sgd", batch_norm, products)


def ordinary(x: torch.Tensor, y: torch.Tensor, classes: int) -> None:
    """One head as in a tutorial."""
    norm, head = nn.BatchNorm1d(x.shape[1], affine=False, eps=1e-6), nn.Linear(x.shape[1], classes)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(x)).split(BATCH):
            loss = nn.functional.cross_entropy(head(norm(x[index])), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def contenders(
    x: torch.Tensor, y: torch.Tensor, classes: int, heads: int
) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Per row: one head, and all heads."""
    rows = {}
    for name, products, norm in (
        ("batch norm, bf16 products", "bf16", True),
        ("batch norm, fp32", "fp32", True),
        ("no batch norm, fp32", "fp32", False),
    ):
        one, many = grid(1, products, norm), grid(heads, products, norm)
        rows[name] = (
            lambda g=one: train_heads(x, y, classes, g),
            lambda g=many: train_heads(x, y, classes, g),
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--heads", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    cpu = torch.device("cpu")
    x = torch.randn(options.samples, options.width)
    y = torch.randint(0, options.classes, (options.samples,))
    rows, stored = [], {}
    for threads in options.threads:
        pin(threads)
        facts = machine(cpu)
        describe(facts)
        pairs = contenders(x, y, options.classes, options.heads)
        work = {"ordinary head": lambda: ordinary(x, y, options.classes)}
        for name, (one, many) in pairs.items():
            work |= {f"{name}: 1": one, f"{name}: {options.heads}": many}
        times: dict[str, Times] = take_turns(work, options.rounds, cpu)
        plain = times["ordinary head"]
        for name in pairs:
            one, many = times[f"{name}: 1"], times[f"{name}: {options.heads}"]
            middle, low, high = paired_ratio(many, one)
            busy = many.busy / one.busy
            rows.append(
                (
                    f"{threads} thread{'s' * (threads > 1)}, {name}",
                    f"{1e3 * one.busy:.0f} ms",
                    f"{1e3 * many.busy:.0f} ms",
                    f"{middle:.2f} ({low:.2f}-{high:.2f})",
                    f"{busy:.2f}",
                    f"{many.busy / plain.busy:.2f}",
                )
            )
        stored[str(threads)] = {"machine": facts, "times": {name: asdict(t) for name, t in times.items()}}
        save("linear_grid", {"options": vars(options), "threads": stored})
    auto = "bf16" if multiplies_bf16(cpu) else "fp32"
    head = (
        "setting",
        "1 head, processor",
        f"{options.heads} heads",
        "wall ratio",
        "processor ratio",
        "against an ordinary head",
    )
    notes = (
        f"{EPOCHS} epochs of {options.samples:,} x {options.width}, {options.classes} classes, batches of {BATCH:,}",
        f"aim: ratio of at most {AIM} with batch norm and the products 'auto' picks here ({auto})",
        "an ordinary head: nn.BatchNorm1d, nn.Linear, autograd and torch.optim.SGD in fp32; ratio of processor times",
    )
    show("A grid of linear heads", head, rows, notes)


if __name__ == "__main__":
    main()
