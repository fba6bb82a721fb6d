"""Attention weights of a block, recomputed from its own q and k because fused attention never returns them.

A hook on a block's attention sees its input and its output. From the input the weights softmax(q kᵀ/√d) are made
again, and softmax(q kᵀ/√d) v through the block's own output projection has to equal the block's output: so weights are
shown only for attention that really is this formula (our rotary positions are known, biases are not), ours or timm's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openjepa.errors import ConfigError
from openjepa.models.rotary import rotate

OnWeights = Callable[[int, Tensor], None]  # layer, weights (B, heads, queries, keys)
AGREEMENT = 1e-3  # of recomputed and real output, relative to the largest output: half precision is not used here


def attentions(network: nn.Module) -> list[Any]:
    """The self-attention modules of ``network`` in order: those with a fused ``qkv`` projection.

    Raises:
        ConfigError: there is none.
    """
    found = [m for m in network.modules() if isinstance(getattr(m, "qkv", None), nn.Linear) and _heads(m)]
    if not found:
        raise ConfigError(
            f"attention maps need blocks with one fused 'qkv' projection, which {type(network).__name__} has not"
        )
    return found


def layer_index(layer: int, depth: int) -> int:
    """``layer`` as a number from 0; negative ones count from the end.

    Raises:
        ConfigError: there is no such layer.
    """
    if not -depth <= layer < depth:
        raise ConfigError(
            f"layer {layer} does not exist: there are {depth}, so use 0 to {depth - 1}, or -1 for the last"
        )
    return layer % depth


def attention_weights(module: Any, x: Tensor, mask: Tensor | None = None, last: int | None = None) -> Tensor:
    """Weights ``(B, heads, Q, N)`` float32 of self-attention over ``x (B, N, D)``; every row sums to one.

    mask: True where a key may be seen, broadcastable to the weights. last: only the last so many tokens ask.
    """
    return _explicit(module, x, mask, last)[0]


def watch(
    network: nn.Module, call: Callable[[], object], on_weights: OnWeights, layers: Sequence[int] | None = None
) -> None:
    """Run ``call``, which runs ``network``, and hand the weights of the attention ``layers`` to ``on_weights``.

    Layers are counted from 0 as :func:`attentions` lists them; None watches all. Weights come in the order of the
    layers, without gradients, and are not kept here: a deep network costs the memory of one layer.

    Raises:
        ConfigError: a layer's output is not softmax(q kᵀ/√d) v, so weights made here would not be its own.
    """
    found = attentions(network)
    handles = []
    try:
        for number in range(len(found)) if layers is None else layers:
            handles.append(found[number].register_forward_hook(_hook(number, on_weights), with_kwargs=True))
        with torch.no_grad():
            call()
    finally:
        for handle in handles:
            handle.remove()


def _hook(number: int, on_weights: OnWeights) -> Callable[..., None]:
    def look(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        names = ("x", "mask", "last", "rope")  # of our own attention; timm's second argument is attn_mask
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        mask = given.get("mask", given.get("attn_mask"))
        if mask is not None and mask.dtype != torch.bool:
            raise ConfigError(f"{type(module).__name__} adds a bias to its attention, which these maps do not know")
        weights, again = _explicit(module, given["x"], mask, given.get("last"), given.get("rope"))
        far = float((again - output).abs().max()) / max(float(output.abs().max()), 1e-12)
        if not far <= AGREEMENT:
            raise ConfigError(
                f"{type(module).__name__} of layer {number} does more than softmax(q k) v (outputs differ by {far:.0%}), "
                "so its attention cannot be shown"
            )
        on_weights(number, weights)

    return look


def _heads(module: Any) -> int:
    """Number of heads under our name or timm's; 0 when the module has neither."""
    count = getattr(module, "heads", getattr(module, "num_heads", 0))
    return count if isinstance(count, int) else 0


def _explicit(
    module: Any, x: Tensor, mask: Tensor | None, last: int | None, rope: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weights ``(B, heads, Q, N)`` and the output ``(B, Q, D)`` they give through the module's own projections."""
    batch, tokens, _ = x.shape
    heads = _heads(module)
    query, key, value = module.qkv(x).reshape(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4).float()
    if rope is not None:
        query, key = rotate(query, rope), rotate(key, rope)
    if last is not None:
        query = query[:, :, -last:]
    if getattr(module, "q_norm", None) is not None:
        query, key = module.q_norm(query), module.k_norm(key)
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(dim=-1)
    mixed = (weights @ value).transpose(1, 2).flatten(2).to(x.dtype)
    if isinstance(getattr(module, "norm", None), nn.Module):  # timm: a norm of the heads' output, often none
        mixed = module.norm(mixed)
    return weights, module.proj(mixed)


class Rollout:
    """Attention rollout (Abnar & Zuidema 2020, arXiv:2005.00928 §3): Ã_l = A_l Ã_{l−1} with A = ½ (mean of heads + I).

    How much of each input token reaches a token of the last layer if every block passed on only its attention and its
    residual stream in equal parts. Give :meth:`add` to :func:`watch`; ``value`` is ``(B, N, N)``, rows sum to one.
    """

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def add(self, layer: int, weights: Tensor) -> None:
        """One more layer of weights ``(B, heads, N, N)``."""
        mean = weights.mean(dim=1)
        step = 0.5 * (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device))
        self.value = step if self.value is None else step @ self.value
