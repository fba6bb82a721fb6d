"""Parameter groups and schedules."""

from openjepa.optim.groups import build_optimizer, decays, param_groups, set_schedule
from openjepa.optim.schedules import Schedule

__all__ = ["Schedule", "build_optimizer", "decays", "param_groups", "set_schedule"]
