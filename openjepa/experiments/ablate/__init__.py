"""Ablations: grids of arms × seeds × data sets, run resumably, compared by a stated rule with an expected direction."""

from openjepa.experiments.ablate.grid import Grid, GridInfo, build_grid, list_grids, load_grid
from openjepa.experiments.ablate.run import AblationResult, Plan, ablate, plan
from openjepa.experiments.ablate.stats import RULE, Interval, Verdict, interval, judge, t_quantile
from openjepa.experiments.ablate.table import markdown, render

__all__ = [
    "RULE",
    "AblationResult",
    "Grid",
    "GridInfo",
    "Interval",
    "Plan",
    "Verdict",
    "ablate",
    "build_grid",
    "interval",
    "judge",
    "list_grids",
    "load_grid",
    "markdown",
    "plan",
    "render",
    "t_quantile",
]
