"""The contact sheet finds what it should and says right and wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from visualize_fakes import ListSource, PatchMeans, Scale

from openjepa.config.schema import DataConfig
from openjepa.visualize import canvas, contact_sheet, neighbour_rows
from openjepa.visualize.neighbours import RIGHT, WRONG, framed, nearest, right_share

DATA = DataConfig(image_size=16, eval_crop=1.0)
CLASSES = ["red", "green"]


def _flat(red: int, green: int) -> torch.Tensor:
    return torch.tensor([red, green, 10], dtype=torch.uint8)[:, None, None].expand(3, 16, 16).contiguous()


def _bank(broken: tuple[int, ...] = ()) -> ListSource:
    colours = [(200 + k, 5) for k in range(6)] + [(5, 200 + k) for k in range(6)]
    return ListSource([_flat(*c) for c in colours], [0] * 6 + [1] * 6, CLASSES, broken)


def test_nearest_is_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(4, 7, generator=generator), torch.randn(50, 7, generator=generator)
    values, index = nearest(queries, bank, 5)
    a, b = (queries - bank.mean(0)).numpy(), (bank - bank.mean(0)).numpy()
    cosine = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    assert np.array_equal(index.numpy(), np.argsort(-cosine, axis=1)[:, :5])
    assert values.numpy() == pytest.approx(-np.sort(-cosine, axis=1)[:, :5], abs=1e-5)


def test_neighbours_of_one_colour_are_of_that_colour() -> None:
    held = ListSource([_flat(210, 8), _flat(8, 210)], [0, 1], CLASSES)
    rows, searched = neighbour_rows(PatchMeans(), Scale(), DATA, _bank(), held, queries=2, k=4)
    assert searched == 12
    assert [row.class_name for row in rows] == CLASSES
    assert all(n.right and n.class_name == row.class_name for row in rows for n in row.neighbours)
    assert [n.similarity for n in rows[0].neighbours] == sorted(
        (n.similarity for n in rows[0].neighbours), reverse=True
    )
    assert right_share(rows) == 1
    sheet = np.asarray(contact_sheet(rows))
    assert (sheet == RIGHT).all(-1).any()
    assert not (sheet == WRONG).all(-1).any()


def test_wrong_neighbours_are_framed_as_wrong_by_name_of_class() -> None:
    held = ListSource([_flat(210, 8)], [0], ["green"])  # the same number means another class here
    rows, _ = neighbour_rows(PatchMeans(), Scale(), DATA, _bank(), held, queries=1, k=3)
    assert [n.right for n in rows[0].neighbours] == [False] * 3
    assert tuple(framed(rows[0].neighbours[0].image, False)[0, 0]) == WRONG


def test_without_labels_nothing_is_judged() -> None:
    bank = ListSource(_bank().images)
    rows, _ = neighbour_rows(PatchMeans(), Scale(), DATA, bank, ListSource([_flat(9, 210)]), queries=3, k=2)
    assert len(rows) == 1
    assert [n.right for n in rows[0].neighbours] == [None, None]
    assert right_share(rows) is None
    assert contact_sheet(rows).size[0] > 3 * canvas.TILE // 2


def test_a_bank_with_bad_files_and_fewer_than_k_images() -> None:
    rows, searched = neighbour_rows(
        PatchMeans(), Scale(), DATA, _bank(broken=(0, 1, 2, 7)), ListSource([_flat(210, 8)], [0], CLASSES), k=99
    )
    assert searched == len(rows[0].neighbours) == 8
    assert "item 0" not in {n.name for n in rows[0].neighbours}


def test_the_time_limit_stops_after_a_batch() -> None:
    rows, searched = neighbour_rows(
        PatchMeans(), Scale(), DATA, _bank(), ListSource([_flat(210, 8)]), queries=1, k=2, seconds=0, batch_size=4
    )
    assert searched == 4
    assert len(rows[0].neighbours) == 2
