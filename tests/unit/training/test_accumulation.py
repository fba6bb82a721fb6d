"""Micro-batches change nothing: loss and gradients equal those of the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import Generated, largest_difference, numbers, saved_state, tiny_recipe
from torch import Tensor

from openjepa.data import Normalise
from openjepa.methods import build_method
from openjepa.training import train
from openjepa.training.engine import Engine
from openjepa.training.feed import Feed, Share
from openjepa.training.lanes import plan_lanes
from openjepa.training.sizing import cut_rows
from openjepa.types import Batch, Progress


def gradients(micro: int) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the first step with micro-batches of ``micro``."""
    recipe = tiny_recipe("train.batch_size=8", "mask.context_mode=padded")
    torch.manual_seed(0)
    engine = Engine(recipe.train)
    method = engine.prepare(build_method(recipe))
    normalise = Normalise.for_data(recipe.data)
    lanes = plan_lanes(recipe, 8)
    feed = Feed(recipe, lanes, [Generated()], total=1, share=Share(micro=micro), count=method.count)
    work = feed.next()
    feed.close()
    assert sum(m.count for m in work.micros) == work.count
    assert [m.last for m in work.micros] == [False] * (len(work.micros) - 1) + [True]
    loss = 0.0
    for m in work.micros:
        batch = Batch({"image": normalise(m.batch.inputs["image"])}, m.batch.ids, m.batch.places)
        with engine.accumulating(m.last):
            output = engine.model(batch, m.masks, Progress(0, 1), m.count)
            engine.backward(output.loss_sum, work.count)
        loss += float(output.loss_sum.detach()) / work.count
    return loss, {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("micro", [1, 3, 5])
def test_gradients_equal_those_of_the_whole_batch(micro: int) -> None:
    loss, whole = gradients(8)
    cut_loss, cut = gradients(micro)
    assert cut_loss == pytest.approx(loss, rel=1e-6)
    scale = max(float(g.abs().max()) for g in whole.values())
    assert largest_difference(whole, cut) < 1e-6 * scale + 1e-9


def test_a_run_in_micro_batches_of_three(tmp_path: Path) -> None:
    train(tiny_recipe(), Generated(), out=tmp_path / "whole", console=False)
    train(tiny_recipe("train.micro_batch=3"), Generated(), out=tmp_path / "cut", console=False)
    for a, b in zip(numbers(tmp_path / "whole"), numbers(tmp_path / "cut"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
    assert largest_difference(saved_state(tmp_path / "whole")[0], saved_state(tmp_path / "cut")[0]) < 1e-5


@given(batch=st.integers(1, 97), world=st.integers(1, 9), micro=st.integers(1, 20))
def test_cuts_cover_all_rows_and_agree_between_ranks(batch: int, world: int, micro: int) -> None:
    if batch < world:
        return
    cuts = []
    for rank in range(world):
        rows = batch * (rank + 1) // world - batch * rank // world
        cut = cut_rows(rows, most=-(-batch // world), fewest=batch // world, micro=micro)
        assert cut.parts[0][0] == 0
        assert cut.parts[-1][1] == rows
        assert all(
            a[1] == b[0] and a[0] < a[1] for a, b in zip(cut.parts, (*cut.parts[1:], (rows, rows + 1)), strict=True)
        )
        assert cut.largest <= micro + 1
        cuts.append(len(cut.parts))
    assert len(set(cuts)) == 1
