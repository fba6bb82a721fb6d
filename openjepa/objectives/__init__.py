"""Losses, target transforms and regularisers: functions of tensors."""

from openjepa.objectives.distances import distance, masked_sum
from openjepa.objectives.regularisers import covariance, sigreg, variance, vicreg
from openjepa.objectives.targets import transform_target

__all__ = ["covariance", "distance", "masked_sum", "sigreg", "transform_target", "variance", "vicreg"]
