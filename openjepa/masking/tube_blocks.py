"""Geometry of blocks in space and time: sizes of a batch, and the cells that blocks cover on a (t, h, w) grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openjepa.config.schema import TubeGroup
from openjepa.masking.blocks import Borders, Cells, block_cells, block_size, corners, covered
from openjepa.masking.draws import Floats

Volume = tuple[int, int, int]
LAST = 1 - 2.0**-32  # the largest draw used: what a range of shares does not reach, rounding does not reach either


@dataclass(frozen=True)
class TubeSize:
    """Size of a group's blocks in tokens: ``tubelets`` long, ``rows`` × ``columns`` in every frame."""

    tubelets: int
    rows: int
    columns: int

    def fills(self, grid: Volume) -> bool:
        """Whether one block is the whole ``grid`` (t, h, w)."""
        return (self.tubelets, self.rows, self.columns) == grid


def tube_size(draws: Floats | tuple[float, float, float], group: TubeGroup, grid: Volume, borders: Borders) -> TubeSize:
    """Size of a block from three uniforms in [0, 1): temporal, spatial, aspect (2404.08471 §3.2; rounding as published).

    ``max(1, int(t·ts))`` tubelets with ``ts`` linear in ``temporal_scale``; rows and columns from
    :func:`openjepa.masking.blocks.block_size`.
    """
    temporal, spatial, aspect = (min(float(draw), LAST) for draw in draws)
    low, high = group.temporal_scale
    tubelets = max(1, int(grid[0] * (low + temporal * (high - low))))
    rows, columns = block_size(spatial, aspect, group.spatial_scale, group.aspect, grid[1:], borders)
    return TubeSize(tubelets, rows, columns)


def largest_size(group: TubeGroup, grid: Volume, borders: Borders) -> TubeSize:
    """Of the sizes that a group can draw, the one that comes nearest to filling the grid.

    Both sides can only fill their axis together for aspects around that of the grid, or, where borders are 'full', at an
    end of the range; of those three the largest is the answer.
    """
    low, high = group.aspect
    balanced = min(max((grid[1] - 0.5) / (grid[2] - 0.5), low), high)
    middle = (balanced - low) / (high - low) if high > low else 0.0
    sizes = [tube_size((1.0, 1.0, draw), group, grid, borders) for draw in (0.0, middle, 1.0)]
    return max(sizes, key=lambda size: size.rows * size.columns)


def block_counts(size: TubeSize, grid: Volume) -> Volume:
    """How many tubelets, rows and columns the first corner of a block may take, all positions inside the grid."""
    return grid[0] - size.tubelets + 1, grid[1] - size.rows + 1, grid[2] - size.columns + 1


def covered_volume(uniform: Floats, size: TubeSize, grid: Volume) -> Cells:
    """Union of each sample's equal-sized blocks: position uniforms ``(B, blocks, 3)`` → ``(B, t, h, w)`` bool.

    Blocks as long as the clip are tubes: their union in the plane is the same in every tubelet.
    """
    corner = corners(uniform, np.array(block_counts(size, grid)))
    in_frame, frame = (size.rows, size.columns), grid[1:]
    if size.tubelets == grid[0]:
        tubes = covered(corner[..., 1:], in_frame, frame)
        return np.broadcast_to(tubes[:, None], (len(tubes), *grid))
    union = np.zeros((len(corner), *grid), dtype=np.bool_)
    moments = np.arange(grid[0])
    for block in range(corner.shape[1]):  # over the few blocks of a sample, never over samples
        start = corner[:, block, 0, None]
        during = (moments >= start) & (moments < start + size.tubelets)
        union |= during[..., None, None] & block_cells(corner[:, block, 1:], in_frame, frame)[:, None]
    return union
