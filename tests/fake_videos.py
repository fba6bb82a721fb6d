"""Videos in memory, as a source of videos behaves (see :mod:`openjepa.data.clips`): for tests that need no files."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from openjepa.data.clips import Clips, Timeline, UnreadableVideoError


class FakeVideos:
    """``count`` seeded videos of 24 × 24 at 8 fps: a bright bar that walks over a coloured ramp.

    lengths: frames of each video in turn. bad: indices that cannot be read; they draw a number before they fail, as a
    file does that breaks in the middle.
    """

    name = "fake videos"
    classes: list[str] | None = None

    def __init__(
        self, count: int = 24, clips: Clips | None = None, lengths: tuple[int, ...] = (24,), bad: tuple[int, ...] = ()
    ) -> None:
        self.count, self.lengths, self.bad = count, lengths, set(bad)
        self.clips = Clips(4) if clips is None else clips
        self.padded: dict[str, int] = {}

    def sampled(self, clips: Clips) -> FakeVideos:
        return FakeVideos(self.count, clips, self.lengths, tuple(self.bad))

    @property
    def short(self) -> int:
        return len(self.padded)

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> int:
        return -1

    def item_id(self, index: int) -> str:
        return f"videos/{index:03d}.mp4"

    def frames(self, index: int) -> Tensor:
        """Every frame of a video, ``(N, 3, 24, 24)`` uint8."""
        length = self.lengths[index % len(self.lengths)]
        generator = torch.Generator().manual_seed(index)
        tilt = torch.rand(3, 2, generator=generator)
        ramp = torch.linspace(0, 120, 24)
        image = tilt[:, :1, None] * ramp[:, None] + tilt[:, 1:, None] * ramp
        noise = 40 * torch.rand(3, 24, 24, generator=generator)
        video = (image + noise).expand(length, 3, 24, 24).clone()
        for t in range(length):
            video[t, :, :, (t + index) % 24] += 90
        return video.clamp(0, 255).byte()

    def read(self, index: int) -> Tensor:
        draws = self.clips.draws()
        if index in self.bad:
            raise UnreadableVideoError(self.item_id(index), "is broken")
        video = self.frames(index)
        timeline = Timeline.even(len(video), 8.0)
        moments = self.clips.moments(timeline, draws, self.item_id(index))
        if moments.padded:
            self.padded[self.item_id(index)] = moments.padded
        return video[torch.from_numpy(timeline.numbers(moments.times))]

    def fingerprint(self) -> str:
        return f"videos {self.count} {replace(self.clips)}"
