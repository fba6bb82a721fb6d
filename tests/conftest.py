"""Fixtures every room shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's shared folder with golden numbers and real data; absent in a fresh public clone."""
    path = Path(__file__).resolve().parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("needs ../shared (golden numbers and real data), which a public clone does not have")
    return path


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    """Tests are small: more threads only fight each other under ``pytest -n``."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _no_feature_cache() -> Iterator[None]:
    """Tests neither read nor fill the cache of the user who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENJEPA_CACHE", "none")
        yield
