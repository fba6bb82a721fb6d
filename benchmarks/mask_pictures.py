"""The picture of docs/methods/video-masks.md: what several masks show, predict and lose, tubelet by tubelet.

python benchmarks/mask_pictures.py [OUT.png]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from openjepa.config.schema import MaskConfig, RandomTubeMask, TubeGroup, TubesMask
from openjepa.masking import build_masker
from openjepa.types import Ids

GRID, BATCH, SAMPLE, EPOCH = (8, 14, 14), 24, 3, 0
COLOURS = ["#ffffff", "#2a9d8f", "#d9d4cc"]  # lost, shown to the encoder, predicted
HALF = TubesMask(groups=(TubeGroup(temporal_scale=(0.5, 0.5)),))
CAUSAL = TubesMask(groups=(TubeGroup(keep_time=0.5),))
ROWS: list[tuple[str, MaskConfig, int]] = [
    ("short: 8 × .15", TubesMask(), 0),
    ("long: 2 × .7", TubesMask(), 1),
    ("short, release", TubesMask(context_mode="release"), 0),
    ("short, subset", TubesMask(context_mode="subset"), 0),
    ("keep_time .5", CAUSAL, 0),
    ("temporal_scale .5", HALF, 0),
    ("union", TubesMask(union=True), 0),
    ("random_tube .9", RandomTubeMask(), 0),
]


def cells(ids: Ids) -> torch.Tensor:
    """Valid ids of the drawn sample."""
    index = ids.index[SAMPLE]
    return index if ids.valid is None else index[ids.valid[SAMPLE]]


def picture(out: Path) -> None:
    """Draw every row of ``ROWS`` and write ``out``."""
    figure = Figure(figsize=(9.2, 8.6), dpi=110)
    axes = figure.subplots(len(ROWS), GRID[0], gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    for row, (name, mask, pair) in zip(axes, ROWS, strict=True):
        group = build_masker(mask, GRID, 0)(torch.arange(BATCH), epoch=EPOCH, step=0)
        shown = np.zeros(GRID, dtype=np.int64).reshape(-1)
        shown[cells(group.contexts[pair])] = 1
        shown[cells(group.targets[pair])] = 2
        for axis, tubelet in zip(row, shown.reshape(GRID), strict=True):
            axis.imshow(tubelet, cmap=ListedColormap(COLOURS), vmin=0, vmax=2)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for number, axis in enumerate(axes[0]):
        axis.set_title(f"tubelet {number}", fontsize=8)
    figure.savefig(out, bbox_inches="tight")


if __name__ == "__main__":
    default = Path(__file__).parents[1] / "docs" / "assets" / "video-masks.png"
    picture(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
