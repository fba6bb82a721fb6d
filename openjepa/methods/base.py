"""What every method is to the loop, to checkpoints and to health: online encoder, predictor, perhaps a target network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from openjepa.config.schema import Recipe
from openjepa.models import NarrowPredictor, build_encoder, make_target, update_ema
from openjepa.models.vit import VisionTransformer
from openjepa.types import Batch, MaskGroup, Output, Progress


@dataclass(frozen=True)
class Panel:
    """What the health panel measures on one fixed batch; scalars unless a shape is given.

    loss: prediction loss per element, where there is one. cheats: loss per element of predictions that need no
    understanding (empty where a method has none). prediction_std, target_std: deviation over tokens, averaged over
    channels. features: ``(B, D)`` mean-pooled output of the deployed encoder; online_features: the same of the online
    encoder.
    """

    loss: Tensor | None
    cheats: Mapping[str, Tensor]
    prediction_std: Tensor
    target_std: Tensor
    features: Tensor
    online_features: Tensor


class Method(nn.Module):
    """Base of the compositions. ``online`` and ``predictor`` learn; ``target`` is a slow average or a frozen teacher.

    The parts' names are those of the state dict: ``online.*``, ``predictor.*``, ``target.*`` (only where there is one).
    """

    predictor: nn.Module

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.online: VisionTransformer = build_encoder(
            recipe.model, recipe.image_hw, recipe.data.channels, recipe.frames
        )

    def _finish(self) -> None:
        """Called at the end of a subclass's ``__init__``, when the online part is drawn: target and checkpointing."""
        keeps_target = self.recipe.target.kind in ("ema", "frozen")
        self.target: VisionTransformer | None = make_target(self.online) if keeps_target else None
        if self.recipe.train.activation_checkpointing:
            self.online.set_grad_checkpointing()
            if isinstance(self.predictor, NarrowPredictor):
                self.predictor.set_grad_checkpointing()

    @property
    def encoder(self) -> VisionTransformer:
        """The deployable encoder: the slow average where there is one, else the online encoder."""
        if self.recipe.target.averaged:
            assert self.target is not None
            return self.target
        return self.online

    @property
    def batch_statistics(self) -> bool:
        """Whether the loss depends on which samples share a micro-batch (then accumulation is not exact)."""
        raise NotImplementedError

    @property
    def synchronised(self) -> bool:
        """Whether statistics of a batch are those of all processes' rows together."""
        return False

    def after_loading(self) -> None:
        """Called when parts have been given weights of another run (``--init``): settle what follows from them."""

    def train(self, mode: bool = True) -> Method:
        """Training mode for what learns; the target always runs as it will be deployed."""
        super().train(mode)
        if self.target is not None:
            self.target.eval()
        return self

    def count(self, masks: Sequence[MaskGroup], rows: int) -> float:
        """Supervised elements of ``rows`` samples with these masks. A host number; CPU ids only."""
        raise NotImplementedError

    def forward(
        self, batch: Batch, masks: Sequence[MaskGroup], progress: Progress, count: float | None = None
    ) -> Output:
        """Loss of one micro-batch.

        Args:
            batch: normalised inputs on the device. masks: its mask groups on the device.
            progress: where the run is (seeds SIGReg's directions). count: supervised elements of this micro-batch, as
                :meth:`count` says; given by the loop so that nothing is read back from the device.

        Returns:
            The summed loss, its element count, and detached terms per element.
        """
        raise NotImplementedError

    def after_step(self, momentum: float | Tensor) -> None:
        """Move a slow average towards the online encoder, after the optimizer's update (a device scalar: no host read)."""
        if self.recipe.target.averaged:
            assert self.target is not None
            update_ema(self.target, self.online, momentum)

    def panel(self, batch: Batch, masks: Sequence[MaskGroup]) -> Panel:
        """Measure the method on a fixed batch of at least two images (see :class:`Panel`). Called without gradient."""
        raise NotImplementedError

    def blocks(self) -> list[nn.Module]:
        """Transformer blocks of all parts: compiled and sharded one by one."""
        return [
            block
            for part in self.parts()
            for name, stack in part.named_children()
            if name in ("blocks", "predictor_blocks")
            for block in stack.children()
        ]

    def parts(self) -> list[nn.Module]:
        """Encoder, predictor and target, where they have weights."""
        found = (self.online, self.predictor, self.target)
        return [part for part in found if part is not None and any(True for _ in part.parameters())]
