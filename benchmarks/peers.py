"""I-JEPA steps built from the public parts of other libraries, with the same masks, sizes and arithmetic as ours.

Each builder returns a function that does one full step: target forward, context forward, predictor, loss, backward,
AdamW, EMA. Optimizer and EMA are those the library documents. Nothing here is used by the package.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjepa.types import MaskGroup

if TYPE_CHECKING:
    from train_step import Setting

Step = Callable[[Tensor, MaskGroup], Tensor]
INSTALL = {"lightly": "pip install lightly timm", "stable-pretraining": "pip install stable-pretraining"}


def timm_encoder(setting: Setting) -> nn.Module:
    """Timm's ViT of the setting's size without class token, as I-JEPA has it."""
    from timm.models.vision_transformer import VisionTransformer

    size = setting.size
    return VisionTransformer(
        img_size=setting.pixels,
        patch_size=16,
        embed_dim=size.dim,
        depth=size.depth,
        num_heads=size.heads,
        num_classes=0,
        global_pool="",
        class_token=False,
    )


def lightly_step(setting: Setting) -> tuple[nn.Module, Step]:
    """Lightly's timm encoder and I-JEPA predictor, put together as its documented example does.

    Its torchvision predictor cannot be used: there the MLP is as wide as the *encoder*, which is other arithmetic.
    """
    from lightly.models import utils
    from lightly.models.modules import IJEPAPredictorTIMM, MaskedVisionTransformerTIMM

    model = nn.Module()
    model.encoder = MaskedVisionTransformerTIMM(vit=timm_encoder(setting))
    model.predictor = IJEPAPredictorTIMM(
        num_patches=setting.tokens,
        depth=setting.predictor_depth,
        mlp_dim=setting.size.dim,
        predictor_embed_dim=setting.predictor_dim,
        num_heads=setting.predictor_heads,
    )
    model.target = copy.deepcopy(model.encoder).requires_grad_(False)
    model.to(setting.device)
    trained = [*model.encoder.parameters(), *model.predictor.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1.5e-4)
    criterion = nn.SmoothL1Loss()

    def step(images: Tensor, group: MaskGroup) -> Tensor:
        contexts, targets = [ids.index for ids in group.contexts], [ids.index for ids in group.targets]
        with setting.autocast():
            with torch.no_grad():
                hidden = model.target.encode(images)
                hidden = F.layer_norm(hidden, (hidden.size(-1),))
                hidden = utils.apply_masks(hidden, targets)
            seen = model.encoder.encode(images, idx_keep=contexts[0])
            loss = criterion(model.predictor(seen, contexts, targets), hidden)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        utils.update_momentum(model.encoder, model.target, m=0.996)
        return loss.detach()

    return model, step


class GivenMasks(nn.Module):
    """Stands in for stable-pretraining's mask sampler and shows the encoder the ids it was given."""

    ids: Tensor

    def forward(self, x: Tensor, grid_h: int, grid_w: int) -> object:
        """Show the patches of ``ids``."""
        from stable_pretraining.backbone.patch_masking import MaskingOutput

        visible = torch.gather(x, 1, self.ids.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        mask = torch.ones(x.shape[:2], device=x.device).scatter_(1, self.ids, 0.0)
        return MaskingOutput(visible=visible, mask=mask, ids_restore=self.ids, ids_keep=self.ids)


def stable_pretraining_step(setting: Setting) -> tuple[nn.Module, Step]:
    """stable-pretraining's encoder, EMA wrapper and I-JEPA predictor, one query row per target block as published."""
    from stable_pretraining.backbone import FlexibleTransformer, MaskedEncoder, TeacherStudentWrapper

    model = nn.Module()
    model.masks = GivenMasks()
    student = MaskedEncoder(timm_encoder(setting), masking=model.masks)
    model.encoder = TeacherStudentWrapper(
        student, warm_init=True, base_ema_coefficient=0.996, final_ema_coefficient=1.0
    )
    model.encoder.teacher.masking = None
    model.predictor = FlexibleTransformer(
        input_dim=setting.size.dim,
        hidden_dim=setting.predictor_dim,
        output_dim=setting.size.dim,
        num_patches=setting.tokens,
        depth=setting.predictor_depth,
        num_heads=setting.predictor_heads,
        self_attn=True,
        cross_attn=False,
        add_mask_token=True,
        use_adaln=False,
        num_prefix_tokens=0,
        zero_init_output=False,
    )
    model.to(setting.device)
    model.train()
    trained = [*model.encoder.student.parameters(), *model.predictor.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1.5e-4)

    def step(images: Tensor, group: MaskGroup) -> Tensor:
        repeats, context = len(group.targets), group.contexts[0].index
        asked = torch.cat([ids.index for ids in group.targets])
        model.masks.ids = context
        with setting.autocast():
            with torch.no_grad():
                hidden = model.encoder.teacher(images).encoded
                hidden = F.layer_norm(hidden, (hidden.size(-1),)).repeat(repeats, 1, 1)
                hidden = torch.gather(hidden, 1, asked.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
            seen = model.encoder.student(images).encoded.repeat(repeats, 1, 1)
            predicted = model.predictor(
                context=seen,
                queries=torch.zeros(*asked.shape, seen.shape[-1], device=seen.device, dtype=seen.dtype),
                context_idx=context.repeat(repeats, 1),
                query_idx=asked,
                query_mask=torch.ones(asked.shape, device=seen.device, dtype=torch.bool),
            )
            loss = F.smooth_l1_loss(predicted, hidden, beta=1.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.encoder.update_teacher()
        return loss.detach()

    return model, step


def stable_pretraining_as_shipped(setting: Setting) -> tuple[nn.Module, Step]:
    """stable-pretraining's whole ``IJEPA`` with its own masks: one row predicts all target blocks (other arithmetic)."""
    from stable_pretraining.methods import IJEPA

    model = IJEPA(
        timm_encoder(setting),
        predictor_embed_dim=setting.predictor_dim,
        predictor_depth=setting.predictor_depth,
        num_targets=4,
    )
    model.to(setting.device)
    model.train()
    trained = [*model.encoder.student.parameters(), *model.predictor.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1.5e-4)

    def step(images: Tensor, group: MaskGroup) -> Tensor:
        with setting.autocast():
            loss = model(images).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.encoder.update_teacher()
        return loss.detach()

    return model, step


BUILDERS = {
    "lightly": ("lightly", lightly_step),
    "stable-pretraining": ("stable-pretraining", stable_pretraining_step),
    "stable-pretraining, as shipped*": ("stable-pretraining", stable_pretraining_as_shipped),
}
