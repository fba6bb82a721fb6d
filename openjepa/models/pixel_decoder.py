"""MAE's decoder (2111.06377 §3): mask tokens at the hidden patches attend to the visible ones and become pixels."""

from __future__ import annotations

from openjepa.models.positions import Positions
from openjepa.models.predictor import DEFAULT_POSITIONS, NarrowPredictor
from openjepa.models.transformer import Init


class PixelDecoder(NarrowPredictor):
    """The narrow predictor with pixels coming out; the class token, where there is one, comes in before the patches.

    :meth:`predict` gives ``(R·B, K, p·p·C)``. Attention does not care in which order tokens stand, so asking at the end
    of the sequence instead of in the mask tokens' places gives the published result for less work.

    Args:
        patch_values: numbers per patch, ``p·p·C``, of a tubelet ``tubelet·p·p·C``. Others as in :class:`NarrowPredictor`.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        grid: tuple[int, ...],
        patch_values: int,
        dim: int = 512,
        depth: int = 8,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        positions: Positions = DEFAULT_POSITIONS,
        init: Init = "mae",
    ) -> None:
        super().__init__(
            embed_dim=embed_dim,
            grid=grid,
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            positions=positions,
            init=init,
            out_dim=patch_values,
        )
