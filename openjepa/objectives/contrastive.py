"""NT-Xent: telling the other view of an image from all other views in the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from openjepa.objectives.across import all_rows, this_rank
from openjepa.objectives.precision import full_precision


def nt_xent(query: Tensor, positive: Tensor, beside: Tensor, temperature: float) -> Tensor:
    """−log softmax of the right answer among two views of every image of the joint batch (SimCLR 2002.05709 eq. 1).

    The candidates of row i are ``positive`` of all images and ``beside`` of all images but i: with two views of N images
    one positive and 2N − 2 negatives, over the images of all processes. Cosines over ``temperature``, in float32.

    Args:
        query, positive: ``(B, D)``, row by row two views of an image. beside: ``(B, D)``, the query's own view as the
            candidates' network sees it (the query itself where there is one network).

    Returns:
        ``(B,)``, for the rows of this process. Every process must call.
    """
    with torch.autocast(query.device.type, enabled=False):
        q, p, b = (F.normalize(full_precision(z), dim=-1) for z in (query, positive, beside))
        owner = q.new_full((len(q), 1), this_rank())
        rows = all_rows(torch.cat([p, b, owner], dim=1))  # (ΣB, 2D + 1): one exchange
        others, same, owners = rows.split([p.shape[1], b.shape[1], 1], dim=1)
        own = torch.arange(len(q), device=q.device) + (owners < this_rank()).sum()
        beside_logits = (q @ same.T).scatter(1, own[:, None], float("-inf"))
        logits = torch.cat([q @ others.T, beside_logits], dim=1) / temperature  # (B, 2ΣB)
        return F.cross_entropy(logits, own, reduction="none")
