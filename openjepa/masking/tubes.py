"""V-JEPA multi-block masks in space and time (2404.08471 §3.2): groups of blocks whose union is hidden and predicted.

Every group is a mask pair of its own: short-range masks hide 8 blocks of 15 % of the frame, long-range masks 2 blocks of
70 %, both as long as the clip, so that nothing can be copied from the frame before. Block sizes are drawn once per global
batch, positions once per sample. Samples hide unequal shares: by default they are padded and nothing is lost; the
published truncation, which loses the latest frames of every context and target, is called ``release``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from openjepa.config.schema import TubeGroup, TubesMask
from openjepa.errors import ConfigError
from openjepa.masking.blocks import Borders, Cells, cells_to_ids, first_cells, random_cells, row_counts
from openjepa.masking.checks import check_grid, check_share, modality, size_of, volume
from openjepa.masking.draws import Floats, Integers, Purpose, key, uniforms
from openjepa.masking.tube_blocks import LAST, TubeSize, covered_volume, largest_size, tube_size
from openjepa.types import MaskGroup

ATTEMPTS = 32  # draws of a sample whose context is empty, before its blocks are laid on each other
PROBES = 64  # batches that decide at build time whether a configuration can work
FUTILE = 0.9  # share of first draws without context from which on a configuration is refused


@dataclass(frozen=True)
class Part:
    """One mask pair of a batch, as cells ``(B, N)``: what the encoder sees and what is predicted, before and after cuts.

    gathered: samples whose blocks had to be laid on each other.
    """

    context: Cells
    target: Cells
    drawn_context: Cells
    drawn_target: Cells
    gathered: int


class TubesMasker:
    """Draws V-JEPA masks. Build it with :func:`openjepa.masking.build_masker`."""

    def __init__(self, mask: TubesMask, grid: tuple[int, ...], seed: int):
        """Check that ``mask`` can work on ``grid`` (tubelets, rows, columns; or an image's), else :class:`ConfigError`."""
        self.mask, self.grid, self.seed = mask, grid, 0
        self._volume = volume(grid)
        numbers = range(len(mask.groups))
        self._pairs: list[tuple[int, ...]] = [tuple(numbers)] if mask.union else [(number,) for number in numbers]
        # Where a block does not fit, 'full' gives its area to the other side; the published code cuts it.
        self._borders: Borders = "clip" if mask.context_mode == "release" else "full"
        self._check()  # with seed 0: whether a configuration can work does not depend on the run's
        self.seed = seed

    def __call__(self, places: Tensor, *, epoch: int, step: int) -> MaskGroup:
        """Masks of the global batch whose samples have ``places`` (B,) int64 in ``epoch``: one pair per group of blocks.

        ``stats`` beyond those of every masker: target_kept (share of the drawn target that survived the cut),
        gathered_share (samples whose redraws were used up); with several pairs all but the last again for each (_0, …).
        """
        order = places.cpu().numpy().astype(np.int64)
        sizes = self.sizes(epoch, step)
        parts = [self._part(pair, order, epoch, sizes) for pair in range(len(self._pairs))]
        contexts = [cells_to_ids(part.context, padded=None) for part in parts]
        targets = [cells_to_ids(part.target, padded=None) for part in parts]
        numbers = tuple(range(len(parts)))
        return MaskGroup(
            contexts,
            targets,
            [(number, number) for number in numbers],
            self.grid,
            modality(self.grid),
            mask_tokens=numbers,
            complement=all(bool((part.context ^ part.target).all()) for part in parts),
            stats=_stats(parts),
        )

    def sizes(self, epoch: int, step: int) -> tuple[TubeSize, ...]:
        """Block size of each group in a global batch: a pure function of (seed, epoch, step)."""
        return self._sizes(uniforms(key(self.seed, Purpose.SIZE, epoch, step, np.arange(len(self.mask.groups))), 3))

    def _sizes(self, draws: Floats) -> tuple[TubeSize, ...]:
        """Sizes from uniforms ``(groups, 3)``."""
        pairs = zip(draws, self.mask.groups, strict=True)
        return tuple(tube_size(draw, group, self._volume, self._borders) for draw, group in pairs)

    def _part(self, pair: int, places: Integers, epoch: int, sizes: Sequence[TubeSize]) -> Part:
        """Draw, cut, complement, invert: in this order, as published."""
        drawn, gathered = self._drawn(pair, places, epoch, sizes)
        caps = [cap for number in self._pairs[pair] if (cap := self.mask.groups[number].max_keep) is not None]
        context = self._cut(drawn, places, epoch, 2 * pair, min(caps, default=drawn.shape[1]))
        target = self._cut(~drawn, places, epoch, 2 * pair + 1, drawn.shape[1])
        if self.mask.complement == "target":
            target = ~context
        elif self.mask.complement == "context":
            context = ~target
        if self.mask.invert:
            return Part(target, context, ~drawn, drawn, gathered)
        return Part(context, target, drawn, ~drawn, gathered)

    def _drawn(self, pair: int, places: Integers, epoch: int, sizes: Sequence[TubeSize]) -> tuple[Cells, int]:
        """Contexts ``(B, N)`` of a pair before any cut, and how many samples needed the last resort.

        Only samples without any context are drawn again, so that no other mask moves.
        """
        context = self._draw(pair, places, epoch, 0, sizes)
        rows = np.flatnonzero(~context.any(axis=1))
        for attempt in range(1, ATTEMPTS):
            if not len(rows):
                return context, 0
            context[rows] = self._draw(pair, places[rows], epoch, attempt, sizes)
            rows = rows[~context[rows].any(axis=1)]
        if len(rows):
            context[rows] = self._draw(pair, places[rows], epoch, ATTEMPTS, sizes)
            assert context[rows].any(axis=1).all(), "the build check lets no block pass that fills the grid"
        return context, len(rows)

    def _draw(self, pair: int, places: Integers, epoch: int, attempt: int, sizes: Sequence[TubeSize]) -> Cells:
        """One attempt: ``(B, N)`` contexts, the complement of all blocks of the pair's groups."""
        hidden = np.zeros((len(places), *self._volume), dtype=np.bool_)
        for number in self._pairs[pair]:
            uniform = self._positions(number, places, epoch, attempt)
            hidden |= covered_volume(uniform, sizes[number], self._volume)
            hidden[:, self._causal(number) :] = True
        return ~hidden.reshape(len(places), -1)

    def _causal(self, number: int) -> int:
        """Tubelets from the first on that may be context."""
        return max(1, int(self._volume[0] * self.mask.groups[number].keep_time))

    def _positions(self, number: int, places: Integers, epoch: int, attempt: int) -> Floats:
        """Uniforms ``(B, blocks, 3)`` of a group: a pure function of (seed, epoch, place, attempt).

        The last attempt lays all blocks into one corner of the frame at the end of the clip. What lies opposite at its
        beginning stays free, since no block fills the grid: a context there always is.
        """
        blocks = self.mask.groups[number].blocks
        if attempt < ATTEMPTS:
            drawn = uniforms(key(self.seed, Purpose.POSITION, epoch, places, attempt, number), 3 * blocks)
            return drawn.reshape(len(places), blocks, 3)
        coins = uniforms(key(self.seed, Purpose.POSITION, epoch, places, attempt), 3)  # one corner for all groups
        corner = np.where(coins < 0.5, 0.0, LAST)
        corner[:, 0] = LAST
        return np.repeat(corner[:, None], blocks, axis=1)

    def _cut(self, cells: Cells, places: Integers, epoch: int, stream: int, cap: int) -> Cells:
        """At most ``cap`` true cells per row of ``(B, N)``, and equally many where ``context_mode`` does not pad."""
        counts = row_counts(cells)
        mode = self.mask.context_mode
        most = min(cap, int(counts.max() if mode == "padded" else counts.min()))
        rows = np.flatnonzero(counts > most)
        if not len(rows):
            return cells
        cut = cells.copy()
        if mode == "release":
            cut[rows] = first_cells(cells[rows], most)
        else:
            cut[rows] = random_cells(cells[rows], most, key(self.seed, Purpose.CUT, epoch, places[rows], stream))
        return cut

    def _check(self) -> None:
        """Refuse, in one line, what cannot work on this grid."""
        mask = self.mask
        check_grid(self.grid)
        for number, group in enumerate(mask.groups):
            name = f"mask.groups[{number}]"
            check_share(f"{name}.spatial_scale", group.spatial_scale)
            check_share(f"{name}.temporal_scale", group.temporal_scale)
            if mask.complement == "context":
                self._check_complement(name, group)
            if largest_size(group, self._volume, self._borders).fills(self._volume):
                raise ConfigError(
                    f"{name}: a block may fill the whole {size_of(self.grid)} grid and leave no context: lower its "
                    "spatial_scale or temporal_scale, or use more patches"
                )
        empty = self._empty_share()
        for pair, members in enumerate(self._pairs):
            if empty[pair] > FUTILE:
                what = "all mask.groups together leave" if mask.union else f"mask.groups[{members[0]}] leaves"
                raise ConfigError(
                    f"{what} no context in {empty[pair]:.0%} of the draws on a {size_of(self.grid)} grid: use fewer "
                    "or smaller blocks, or more patches"
                )

    def _check_complement(self, name: str, group: TubeGroup) -> None:
        """Refuse what ``complement=context`` would undo."""
        if group.max_keep is not None:
            raise ConfigError(f"{name}.max_keep does nothing with mask.complement=context: leave one of them out")
        if group.keep_time < 1 and self.mask.context_mode != "padded":
            raise ConfigError(
                f"{name}.keep_time and mask.complement=context contradict each other: what mask.context_mode="
                f"{self.mask.context_mode} cuts from the target would show the future; use mask.context_mode=padded"
            )

    def _empty_share(self) -> list[float]:
        """Of first draws of each pair, the share that leaves no context. Near 1 the last resort would be the rule."""
        places = np.arange(4)
        draws = uniforms(key(self.seed, Purpose.PROBE, np.arange(PROBES)[:, None], np.arange(len(self.mask.groups))), 3)
        empty = np.zeros(len(self._pairs))
        for epoch, draw in enumerate(draws):
            for pair in range(len(self._pairs)):
                empty[pair] += (~self._draw(pair, places, epoch, 0, self._sizes(draw)).any(axis=1)).mean() / PROBES
        return [float(share) for share in empty]


def _shares(part: Part) -> dict[str, float]:
    """What one pair shows and predicts, and how much of what was drawn survived the cuts."""
    survived = [(part.context, part.drawn_context), (part.target, part.drawn_target)]
    kept = [float(np.count_nonzero(cells & drawn) / np.count_nonzero(drawn)) for cells, drawn in survived]
    return {
        "context_share": float(np.count_nonzero(part.context) / part.context.size),
        "context_kept": kept[0],
        "target_share": float(np.count_nonzero(part.target) / part.target.size),
        "target_kept": kept[1],
    }


def _stats(parts: Sequence[Part]) -> dict[str, float]:
    """Shares averaged over pairs and, where there are several, those of each pair."""
    each = [_shares(part) for part in parts]
    stats = {name: sum(shares[name] for shares in each) / len(each) for name in each[0]}
    stats["gathered_share"] = sum(part.gathered for part in parts) / (len(parts) * len(parts[0].context))
    if len(each) > 1:
        stats.update(
            {f"{name}_{number}": share for number, shares in enumerate(each) for name, share in shares.items()}
        )
    return stats
