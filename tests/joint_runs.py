"""Runs of joint embedding so small that a step takes milliseconds, one per system; and two processes against one.

``python joint_runs.py FOLDER`` prints JSON; used by ``tests/unit/training/test_joint_runs.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from openjepa.config import Recipe, build_recipe

_PROJECTOR = {"kind": "projector", "hidden": [24], "dim": 8}
_NONE = {"kind": "none", "transform": "none"}
PARTS: dict[str, dict[str, Any]] = {
    "vicreg": {
        "predictor": _PROJECTOR,
        "target": _NONE,
        "objective": {"kind": "l2", "weight": 25.0, "regularisers": [{"kind": "vicreg", "weight": 25.0}]},
    },
    "byol": {
        "predictor": {**_PROJECTOR, "prediction_hidden": 16},
        "target": {"kind": "ema", "transform": "none", "momentum": [0.9, 1.0]},
        "objective": {"kind": "normalised_cosine", "weight": 2.0},
    },
    "info_nce": {
        "predictor": _PROJECTOR,
        "target": _NONE,
        "objective": {"kind": "info_nce", "temperature": 0.2},
    },
    "lejepa": {
        "predictor": _PROJECTOR,
        "target": _NONE,
        "objective": {
            "kind": "l2",
            "views": "centroid",
            "weight": 0.98,
            "regularisers": [{"kind": "sigreg", "weight": 0.02, "directions": 16}],
        },
    },
}


def joint_recipe(system: str, *overrides: str) -> Recipe:
    """Width 16, two blocks, views of 16 px (LeJEPA: and one of 8), float32, no TensorBoard."""
    augment = {"crop_scale": [0.3, 1.0], "color_jitter": 0.4, "grayscale": 0.2}
    views: list[dict[str, Any]] = [{"count": 2, "augment": augment}]
    if system == "lejepa":
        views.append({"image_size": 8, "augment": {"crop_scale": [0.1, 0.4]}})
    raw: dict[str, Any] = {
        "name": f"{system}-test",
        "system": system,
        "method": "joint_embedding",
        "data": {"image_size": 16, "workers": 0, "cache": "none", "views": views},
        "mask": {"kind": "none"},
        "model": {"arch": None, "dim": 16, "depth": 2, "heads": 2, "patch_size": 4},
        "train": {"length": "6 steps", "batch_size": 8, "precision": "fp32", "device": "cpu"},
        "log": {"every": "2 steps", "health_samples": 24, "tensorboard": False},
        "checkpoint": {"every": "3 steps"},
        "probe": {"every": None},
        **PARTS[system],
    }
    return build_recipe(raw, overrides)


def main(folder: Path) -> dict[str, Any]:
    """Each system with an odd batch in one process and in two (DDP): largest differences of weights and losses."""
    import torch
    import torchvision.transforms.v2.functional  # noqa: F401  else every fork imports it again, a second each
    from rank_harness import ranks, wait
    from tiny_runs import Generated, in_child, largest_difference, numbers, saved_state

    from openjepa.training import train

    def go(out: Path, recipe: Recipe) -> None:
        torch.set_num_threads(1)
        train(recipe, Generated(), out=out, console=False)

    found: dict[str, Any] = {}
    for name, strategy in (*((name, "ddp") for name in PARTS), ("byol", "fsdp2")):
        # A large eps: AdamW's division would turn the rounding noise of gradients that are 0 into steps of full length.
        settings = ("train.length=3 steps", "train.batch_size=7", "log.every=1 steps", "optim.eps=0.01")
        one, two = folder / f"{name}-{strategy}-1", folder / f"{name}-{strategy}-2"
        alone = joint_recipe(name, *settings)
        both = joint_recipe(name, *settings, f"train.strategy={strategy}")
        codes = wait([in_child(lambda o=one, r=alone: go(o, r))], 120)
        codes += wait(ranks(2, lambda rank, o=two, r=both: go(o, r)), 120)
        losses = zip(numbers(one), numbers(two), strict=True)
        found[f"{name}-{strategy}"] = {
            "codes": codes,
            "weights": largest_difference(saved_state(one)[0], saved_state(two)[0]),
            "loss": max(abs(a["loss"] - b["loss"]) / abs(a["loss"]) for a, b in losses),
            "log": (two / "train.log").read_text() if (two / "train.log").exists() else "",
        }
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
