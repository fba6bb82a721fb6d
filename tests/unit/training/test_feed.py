"""Collation: masks of the global batch, the same for any ranks and micro-batches, and prepared ahead."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from tiny_runs import Generated, numbers, tiny_recipe

from openjepa.errors import DataError
from openjepa.methods import build_method
from openjepa.training import train
from openjepa.training.feed import Feed, Share, Work
from openjepa.training.lanes import plan_lanes

RECIPE = tiny_recipe("train.batch_size=7")
COUNT = build_method(RECIPE).count


def works(share: Share, start: int = 0, total: int = 6, ahead: bool = True) -> list[Work]:
    feed = Feed(
        RECIPE, plan_lanes(RECIPE, 7), [Generated()], total=total, share=share, count=COUNT, start=start, ahead=ahead
    )
    try:
        return [feed.next() for _ in range(start, total)]
    finally:
        feed.close()


def test_ranks_and_micro_batches_cut_the_same_global_batch() -> None:
    whole = works(Share())
    for step, work in enumerate(whole):
        images, targets = [], []
        for rank in range(3):
            mine = works(Share(rank, 3, micro=2))[step]
            assert mine.count == work.count
            assert mine.stats == work.stats
            images += [m.batch.inputs["image"] for m in mine.micros]
            targets += [m.masks[0].targets[0].index for m in mine.micros]
        assert torch.equal(torch.cat(images), work.micros[0].batch.inputs["image"])
        assert torch.equal(torch.cat(targets), work.micros[0].masks[0].targets[0].index)


@pytest.mark.parametrize("ahead", [True, False])
def test_any_start_continues_the_same_stream(ahead: bool) -> None:
    whole, tail = works(Share()), works(Share(), start=4, ahead=ahead)
    for a, b in zip(whole[4:], tail, strict=True):
        assert (a.step, a.epoch, a.count) == (b.step, b.epoch, b.count)
        assert torch.equal(a.micros[0].batch.inputs["image"], b.micros[0].batch.inputs["image"])
        assert torch.equal(a.micros[0].masks[0].contexts[0].index, b.micros[0].masks[0].contexts[0].index)


def test_seek_goes_back() -> None:
    feed = Feed(RECIPE, plan_lanes(RECIPE, 7), [Generated()], total=6, share=Share(), count=COUNT)
    first = [feed.next() for _ in range(4)]
    feed.seek(1)
    again = feed.next()
    assert again.step == 1
    assert torch.equal(again.micros[0].batch.inputs["image"], first[1].micros[0].batch.inputs["image"])
    feed.close()


def test_closing_early_leaves_no_thread() -> None:
    before = threading.active_count()
    feed = Feed(RECIPE, plan_lanes(RECIPE, 7), [Generated()], total=1000, share=Share(), count=COUNT)
    feed.next()
    feed.close()
    assert threading.active_count() == before


class Broken(Generated):
    """Every image from index ``first`` on cannot be read."""

    def __init__(self, count: int, first: int) -> None:
        super().__init__(count)
        self.first = first

    def read(self, index: int) -> torch.Tensor:
        if index >= self.first:
            raise DataError(f"image {index} is broken")
        return super().read(index)


def test_bad_images_are_replaced_counted_and_survive_a_resume(tmp_path: Path) -> None:
    recipe = tiny_recipe("data.max_bad_share=0.1")
    result = train(recipe, Broken(40, 38), out=tmp_path, console=False)
    assert result.finished
    assert set(result.bad) == {"generated/038", "generated/039"}
    again = train(recipe, Broken(40, 38), out=tmp_path, resume=True, console=False)
    assert set(again.bad) == set(result.bad)
    assert numbers(tmp_path)[-1]["step"] == 12


@pytest.mark.parametrize("first", [0, 30])
def test_too_many_bad_images_end_the_run_with_one_line(tmp_path: Path, first: int) -> None:
    with pytest.raises(DataError) as caught:
        train(tiny_recipe(), Broken(40, first), out=tmp_path, console=False)
    assert "\n" not in str(caught.value)
    assert "cannot be read" in str(caught.value) or "can be read" in str(caught.value)
