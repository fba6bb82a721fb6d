"""A grid of two arms and two seeds whose runs take a fraction of a second; makes ``tests/tiny_runs.py`` importable."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = str(next(parent for parent in Path(__file__).resolve().parents if parent.name == "tests"))
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)

TINY: dict[str, Any] = {
    "name": "small",
    "question": "Does a wider encoder score better?",
    "base": "ijepa-tiny",
    "overrides": {
        "data.scenes_count": 48,
        "data.workers": 0,
        "model.depth": 1,
        "model.heads": 2,
        "predictor.dim": 16,
        "predictor.depth": 1,
        "train.batch_size": 16,
        "train.precision": "fp32",
        "train.device": "cpu",
        "log.health_samples": 16,
    },
    "budget": "4 steps",
    "seeds": [0, 1],
    "evaluation": {"what": ["knn"], "k": 3},
    "arms": {"narrow": {"overrides": {"model.dim": 16}}, "wide": {"overrides": {"model.dim": 32}}},
    "expect": [{"better": "wide", "worse": "narrow", "metric": "knn", "claim": "width helps"}],
}


@pytest.fixture
def tiny() -> dict[str, Any]:
    return {**TINY}
