"""Losses, target transforms and regularisers: functions of tensors."""

from openjepa.objectives.across import all_rows, all_sum, alone
from openjepa.objectives.context import context_sum, context_weights, distance_to_hidden
from openjepa.objectives.contrastive import nt_xent
from openjepa.objectives.distances import block_mean, distance, elements_per_token, info_nce, masked_sum
from openjepa.objectives.pixels import patchify, pixel_target, unpatchify
from openjepa.objectives.precision import full_precision
from openjepa.objectives.regularisers import covariance, regularise, sigreg, token_variance, variance, vicreg
from openjepa.objectives.targets import average_layers, standardise, transform_target

__all__ = [
    "all_rows",
    "all_sum",
    "alone",
    "average_layers",
    "block_mean",
    "context_sum",
    "context_weights",
    "covariance",
    "distance",
    "distance_to_hidden",
    "elements_per_token",
    "full_precision",
    "info_nce",
    "masked_sum",
    "nt_xent",
    "patchify",
    "pixel_target",
    "regularise",
    "sigreg",
    "standardise",
    "token_variance",
    "transform_target",
    "unpatchify",
    "variance",
    "vicreg",
]
