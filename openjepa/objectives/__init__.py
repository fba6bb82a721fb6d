"""Losses, target transforms and regularisers: functions of tensors."""

from openjepa.objectives.distances import distance, masked_sum
from openjepa.objectives.regularisers import covariance, sigreg, variance, vicreg
from openjepa.objectives.targets import standardise, transform_target

__all__ = ["covariance", "distance", "masked_sum", "sigreg", "standardise", "transform_target", "variance", "vicreg"]
