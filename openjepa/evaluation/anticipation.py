"""What comes next? A probe on the tokens of what was seen, and on what the predictor says of the time after it.

After the EK100 protocol of V-JEPA 2 (2506.09985 §6; official.md §7.4): the clip ends τ seconds before an anchor; the
predictor is asked for the tokens of one tubelet ⌊τ·fps/tubelet⌋ tubelets after the clip; a probe reads both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from openjepa.data.clips import Clips, UnreadableVideoError
from openjepa.errors import ConfigError
from openjepa.evaluation.attentive import ProbeGrid, token_probe
from openjepa.evaluation.linear_grid import grid_from
from openjepa.evaluation.request import Bench, Request
from openjepa.evaluation.score import Score
from openjepa.evaluation.tokens import MEMORY_BYTES, TokenSides, open_tokens
from openjepa.features.clips import clips_of
from openjepa.models import NarrowPredictor, PixelDecoder
from openjepa.types import Ids, Tokens

NAME = "anticipation"
RECALL = 5  # class-mean recall at so many, the published measure


@dataclass(frozen=True)
class Foresight:
    """What is seen, and what is asked.

    tau: seconds between the end of what is seen and the anchor. anchor: where that lies between the end (0, as published
    validation has it) and the beginning (1) of a video. mask_token: which learned mask token asks for the future (1 as
    published; of one there is no other than 0). ahead: tubelets predicted.
    """

    tau: float = 1.0
    anchor: float = 0.0
    mask_token: int = 1
    ahead: int = 1

    def __post_init__(self) -> None:
        if not (self.tau >= 0 and math.isfinite(self.tau)):
            raise ConfigError(f"{NAME}: tau is seconds, 0 or more, got {self.tau:g}")
        if not 0 <= self.anchor <= 1:
            raise ConfigError(
                f"{NAME}: the anchor lies between 0 (the video's end) and 1 (its beginning), got {self.anchor:g}"
            )
        if self.mask_token < 0 or self.ahead < 1:
            raise ConfigError(
                f"{NAME}: mask_token is 0 or more and ahead 1 or more, got {self.mask_token}, {self.ahead}"
            )


class Observed:
    """Videos of which only what comes before a moment is seen: ``frames`` at ``fps`` that end ``tau`` before the anchor.

    Before its beginning a video shows its first frame, as in the published code.
    """

    def __init__(self, source: Any, clips: Clips, look: Foresight) -> None:
        assert clips.fps is not None
        self.source, self.frames, self.rate, self.look = source, clips.frames, clips.fps, look
        self.name, self.classes = source.name, source.classes
        self.clips = replace(clips, count=1)

    def __len__(self) -> int:
        return len(self.source)

    def label(self, index: int) -> int:
        """Class of a video, -1 when it has none."""
        return int(self.source.label(index))

    def item_id(self, index: int) -> str:
        """Name of a video in its source."""
        return str(self.source.item_id(index))

    def times(self, duration: float) -> NDArray[np.float64]:
        """Seconds of the frames seen: the last begins 1/fps before the moment that is ``tau`` before the anchor."""
        end = duration * (1 - self.look.anchor) - self.look.tau
        return end + (np.arange(self.frames) - self.frames) / self.rate

    def read(self, index: int) -> Tensor:
        """``(T, C, h, w)`` uint8. Raises DataError when the video cannot be read, or nothing of it may be seen."""
        with self.source.video(index) as video:
            times = self.times(video.duration)
            if times[-1] < 0:
                reason = f"has nothing to see {self.look.tau:g} s (tau) before its anchor"
                raise UnreadableVideoError(self.item_id(index), reason)
            return video.at(np.maximum(times, 0.0))

    def fingerprint(self) -> str:
        """Of the source, and what of it is seen."""
        return f"{self.source.fingerprint()} observed {self.frames} at {self.rate:g} fps {self.look}"


class Foreseeing(nn.Module):
    """An encoder whose tokens are followed by what its predictor expects ``offset`` tubelets after the clip.

    Args:
        encoder: of video. predictor: with ``predict(context, query, mask_tokens)``. offset: tubelets between the clip and
            the first one predicted, ⌊τ·fps/tubelet⌋. look: which mask token, how many tubelets.
    """

    def __init__(self, encoder: Any, predictor: Any, offset: int, look: Foresight) -> None:
        super().__init__()
        self.encoder, self.predictor, self.offset = encoder, predictor, offset
        self.embed_dim, self.patch_size = encoder.embed_dim, encoder.patch_size
        self.ahead, self.token = look.ahead, mask_token_of(predictor, look.mask_token)

    def forward_features(self, x: Tensor, keep: Ids | None = None) -> Tensor:
        """``(B, C, T, H, W)`` normalised → ``(B, N + M, D)``: N tokens of the clip, M = ahead·h·w of the future."""
        if keep is not None:
            raise ConfigError(f"{NAME} sees whole clips: masks need the encoder alone")
        levels = self.predictor.levels  # what it reads and says are so many levels, joined; the last is the features
        read = self.encoder.forward_features(x) if levels == 1 else self.encoder.forward_levels(x, levels=levels)
        seen = read[..., -self.embed_dim :]  # (B, N, D)
        t, h, w = self.encoder.grid_of(x)
        rows, plane = len(x), h * w
        ids = torch.arange(t * plane, device=x.device).expand(rows, -1)
        first = t * plane + self.offset * plane
        query = torch.arange(first, first + self.ahead * plane, device=x.device).expand(rows, -1)
        grid = t + self.offset + self.ahead, h, w  # positions go on beyond the clip
        context = Tokens(read, grid, Ids(ids))
        future = self.predictor.predict(context, Ids(query), mask_tokens=(self.token,))[..., -self.embed_dim :]
        return torch.cat([seen, future.to(seen.dtype)], dim=1)

    forward = forward_features


def mask_token_of(predictor: nn.Module, wish: int) -> int:
    """The mask token to ask with: as wished, 0 where there is one only. Raises ConfigError for one it has not."""
    tokens = getattr(predictor, "mask_tokens", None)
    count = 1 if tokens is None else len(tokens)
    if count == 1:
        return 0
    if wish >= count:
        raise ConfigError(f"{NAME}: the predictor has {count} mask tokens, 0 to {count - 1}, so there is no {wish}")
    return wish


def anticipate(
    bench: Bench,
    look: Foresight | None = None,
    grid: ProbeGrid | None = None,
    *,
    memory: int = MEMORY_BYTES,
    seed: int = 0,
    subject: str = "encoder",
    on_epoch: Callable[[int, int], None] | None = None,
) -> list[Score]:
    """Accuracy, and class-mean recall at 5, of naming a video's class from what comes before ``tau`` seconds to its anchor.

    Three probes of one kind, grid, split and order of samples: on the tokens of the encoder, on those together with the
    predicted ones, and on the predicted ones alone. Without a predictor only the first.

    Args:
        bench: encoder, predictor, and labelled sources of clips. look: what is seen and asked. grid: of the probes; by
            default attentive ones of one block. memory: bytes of tokens kept.

    Raises:
        ConfigError: images, clips without a rate, or a predictor of something else than features.
        DataError: no video is long enough, and as the attentive probe.
    """
    look, grid = look or Foresight(), grid or ProbeGrid()
    clips = _timed(clips_of(bench.train_source))
    assert clips.fps is not None
    offset = int(look.tau * clips.fps / int(getattr(bench.encoder, "tubelet_size", 1)))
    encoder: Any = bench.encoder
    asked: dict[str, object] = {}
    if bench.predictor is not None:
        _check_predictor(bench.predictor, encoder.embed_dim)
        encoder = Foreseeing(encoder, bench.predictor, offset, look)
        asked = {"tubelets_predicted": look.ahead, "after": f"{offset} tubelets", "mask_token": encoder.token}
    sides = open_tokens(
        replace(
            bench,
            encoder=encoder,
            train_source=Observed(bench.train_source, clips, look),
            val_source=Observed(bench.val_source, clips, look),
            val_transform=None,
        ),
        memory,
    )
    seen = {"tau": look.tau, "anchor": look.anchor, "where": "ends tau before the anchor", "segments": None}
    protocol = {**seen, **asked, "layers": bench.layers, "precision": bench.precision}
    about: dict[str, Any] = {"seed": seed, "subject": subject, "device": bench.device, "on_epoch": on_epoch}
    scores = []
    for name, part in _parts(sides, bench, look).items():
        score = token_probe(part, grid, protocol={**protocol, "probe": grid.name}, recall=RECALL, **about)
        scores.append(replace(score, name=f"{NAME} {name}"))
    return scores


def run(request: Request) -> list[Score]:
    """The evaluator; its options may set ``memory`` and every field of :class:`Foresight` and of the probes' grid."""
    options = dict(request.settings.options.get(NAME, {}))
    memory = int(options.pop("memory", MEMORY_BYTES))
    names = [field.name for field in fields(Foresight)]
    look = Foresight(**{key: options.pop(key) for key in names if key in options})
    grid = grid_from(ProbeGrid, NAME, options)
    about: dict[str, Any] = {"seed": request.settings.seed, "subject": request.subject, "on_epoch": request.on_epoch}
    return anticipate(request.place, look, grid, memory=memory, **about)


def _timed(clips: Clips | None) -> Clips:
    """Clips in seconds. Raises ConfigError for images, and for strides, which are of another length in every file."""
    if clips is None:
        raise ConfigError(f"{NAME} needs videos, and these are images")
    if clips.fps is None:
        raise ConfigError(f"{NAME} counts in seconds, and clips of this model in frames: give --fps (published: 8)")
    return clips


def _check_predictor(predictor: nn.Module, width: int) -> None:
    """Raise ConfigError for what does not predict tokens of the encoder's width at given places."""
    if not isinstance(predictor, NarrowPredictor) or isinstance(predictor, PixelDecoder):
        raise ConfigError(
            f"{NAME} asks a predictor of hidden features for those of the future, and {type(predictor).__name__} gives none"
        )
    if predictor.predictor_proj.out_features != predictor.levels * width:
        raise ConfigError(
            f"{NAME}: the predictor speaks of another encoder's features (distilled), not of {width} channels"
        )


def _parts(sides: TokenSides, bench: Bench, look: Foresight) -> dict[str, TokenSides]:
    """Tokens by what they are of: the clip's, all, and the predicted ones."""
    if bench.predictor is None or bench.encoder is None:
        return {"encoder": sides}
    patch, size = bench.encoder.patch_size, bench.transform.size
    count, future = sides.train.shape[0], look.ahead * (size[0] // patch[0]) * (size[1] // patch[1])
    return {
        "encoder": sides.cut(0, count - future),
        "encoder + predictor": sides,
        "predictor": sides.cut(count - future, count),
    }
