"""Position tables against the printed vectors of the published code (official.md §1.5) and under interpolation."""

from __future__ import annotations

import pytest
import torch

from openjepa.models.positions import resample_positions, sincos2d

# token (row 1, column 0), D = 8
GOLDEN = {
    "column_first": [0, 0, 1, 1, 0.841471, 0.01, 0.540302, 0.99995],
    "row_first": [0.841471, 0.01, 0.540302, 0.99995, 0, 0, 1, 1],
}


@pytest.mark.parametrize("order", GOLDEN)
def test_printed_vectors(order: str) -> None:
    table = sincos2d(8, (3, 5), order)
    torch.testing.assert_close(table[5], torch.tensor(GOLDEN[order], dtype=torch.float32), atol=5e-7, rtol=1e-5)


def test_interpolation_keeps_the_native_grid_and_the_orientation() -> None:
    table = sincos2d(16, (4, 6))
    assert resample_positions(table, (4, 6), (4, 6)) is table
    wide = resample_positions(table, (4, 6), (4, 12)).reshape(4, 12, 16)
    # Column channels vary along the columns only, row channels along the rows only, as in the native table.
    torch.testing.assert_close(wide[0, :, :8], wide[3, :, :8])
    torch.testing.assert_close(wide[:, 0, 8:], wide[:, 11, 8:])
    assert not torch.allclose(wide[0, 0, :8], wide[0, 11, :8])


def test_constant_tables_stay_constant() -> None:
    table = torch.full((12, 4), 0.7)
    torch.testing.assert_close(resample_positions(table, (3, 4), (7, 5)), torch.full((35, 4), 0.7))
