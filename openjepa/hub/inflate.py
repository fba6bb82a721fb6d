"""Patch projections for other inputs: more or fewer channels, clips instead of images. Each says what stays equal."""

from __future__ import annotations

import torch
from torch import Tensor


def inflate_channels(weight: Tensor, channels: int) -> Tensor:
    """A patch projection ``(D, C, …)`` for ``channels`` C': cycled, and rescaled so that sums stay what they were.

    An input whose channels repeat those the weights know (c' shows c' mod C) gives exactly the same tokens: each channel's
    weight is shared out among its copies; with fewer channels, those that fall on one are added up (grey: R + G + B).
    """
    known = weight.shape[1]
    if known == channels:
        return weight
    wide = weight.float()
    if channels > known:
        source = torch.arange(channels) % known
        copies = torch.bincount(source)[source]
        grown = wide[:, source] / copies.view(1, -1, *[1] * (weight.ndim - 2))
    else:
        grown = wide.new_zeros(weight.shape[0], channels, *weight.shape[2:])
        grown.index_add_(1, torch.arange(known) % channels, wide)
    return grown.to(weight.dtype)


def inflate_time(weight: Tensor, tubelet: int) -> Tensor:
    """A projection of images ``(D, C, p, p)`` for tubelets, ``(D, C, tubelet, p, p)``: repeated over time and divided by it.

    A clip in which nothing moves gives the tokens of its frame (I3D's inflation, 1705.07750 §2.4).
    """
    assert weight.ndim == 4, weight.shape
    return (weight.float() / tubelet)[:, :, None].repeat(1, 1, tubelet, 1, 1).to(weight.dtype)


def flatten_time(weight: Tensor) -> Tensor:
    """A projection of tubelets ``(D, C, t, p, p)`` for images ``(D, C, p, p)``: an image is the clip in which nothing moves."""
    assert weight.ndim == 5, weight.shape
    return weight.float().sum(2).to(weight.dtype)
