"""The doctor; later ablation grids and comparisons of runs."""
