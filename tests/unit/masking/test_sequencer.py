"""Point sequencers: each group once, always the nearest next."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa.masking.sequencer import nearest_order


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 3), st.integers(0, 10_000), st.sampled_from(["minimum", "first"]))
def test_a_walk_visits_all_and_always_goes_to_the_nearest(groups: int, batch: int, seed: int, start: str) -> None:
    centres = torch.randn(batch, groups, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    order = nearest_order(centres, start)  # type: ignore[arg-type]
    assert torch.equal(order.sort(dim=1).values, torch.arange(groups).expand(batch, -1))
    for cloud, walk in zip(centres, order.tolist(), strict=True):
        assert walk[0] == (int(cloud.sum(1).argmin()) if start == "minimum" else 0)
        for place in range(1, groups):
            gaps = (cloud - cloud[walk[place - 1]]).norm(dim=1)
            assert gaps[walk[place]] <= min(gaps[other] for other in walk[place:]) + 1e-12


def test_a_line_is_walked_along() -> None:
    line = torch.tensor([[[2.0, 0, 0], [0, 0, 0], [3, 0, 0], [1, 0, 0]]])
    assert nearest_order(line).tolist() == [[1, 3, 0, 2]]
    assert nearest_order(line, "first").tolist() == [[0, 2, 3, 1]]  # 3 and 1 are equally far: the lower number


def test_groups_in_one_place_are_all_visited() -> None:
    assert nearest_order(torch.zeros(1, 4, 3)).tolist() == [[0, 1, 2, 3]]
