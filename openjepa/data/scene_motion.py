"""How things move in scene clips: actions that no single frame tells apart.

Every frame of every clip is a draw from one and the same distribution: pairs of things whose place (on a torus a little
larger than the image, so that what leaves on one side comes back on the other), direction of the axis between them,
distance, size and orientation are independent and uniform. An action moves some of these along paths that keep the
distribution: steps around a circle, or waves whose values are uniform when their phase is. So the distribution of the
frame at any time is exactly the same for all actions, and only how frames follow each other tells them apart. Played
backwards an action is its opposite (or itself): left is right, clockwise is counterclockwise, approach is recede.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from openjepa.data.scene_spec import ObjectSpec, SceneSpec, SceneStyle, plan_scene
from openjepa.data.seeds import Stream, mix, mix_range, uniform

#: The classes of clips, as a viewer would say them.
ACTIONS = (
    "move-left",
    "move-right",
    "move-up",
    "move-down",
    "turn-clockwise",
    "turn-counterclockwise",
    "approach",
    "recede",
    "bounce",
    "still",
)
#: Heading in radians of the actions that travel: 0 to the right, π/2 down.
HEADINGS = {"move-right": 0.0, "move-down": math.pi / 2, "move-left": math.pi, "move-up": -math.pi / 2}
#: Frames per second of scene clips; a clip is as long as it is asked to be, and this many frames when nobody asks.
FPS, FRAMES = 24.0, 48

#: Two pairs of the same shape, some clutter behind, and at least one thing in front that all pass behind.
CLIP_STYLE = SceneStyle(kin=(3, 3), fragments=(2, 4), occluders=(1, 1), roughness=(0.03, 0.1))

_RADIUS = (0.08, 0.17)  # of the larger of a pair
_MARGIN = 0.21  # of the torus: no thing reaches into the image from its edge
_SIDE = 1 + 2 * _MARGIN
_GAP = (1.0, 2.4)  # distance of the two centres over the sum of radii: 1 touches
_SPREAD = math.radians(36)  # headings of one class lie within this on either side
_SPEED = (0.012, 0.024)  # shares of the image side per frame
_TURN = (0.045, 0.09)  # radians per frame
_PERIOD = (44.0, 64.0)  # frames from one approach to the next
_SWING = (22.0, 36.0)  # frames from bounce to bounce
_SLOW = 0.9  # share of its period in which a thing approaches; then it falls back
_TREMBLE = 0.004  # how far a still pair trembles, in shares of the image side

Path = NDArray[np.float64]  # (T,)


@dataclass(frozen=True)
class PairSpec:
    """Two things that move together. x, y: middle, axis: direction from the first to the second, gap: distance of centres
    over the sum of radii, all at time 0. phase: of sizes (for approach and recede) and of gaps (bounce), in turns.
    """

    first: ObjectSpec
    second: ObjectSpec
    x: float
    y: float
    axis: float
    size_phase: float
    gap_phase: float


@dataclass(frozen=True)
class ClipSpec:
    """A whole clip: what is there, and how it moves.

    still: shapes, textures, background and what stands in front and behind; its objects' poses are not used. action: index
    into ACTIONS. speed: of the action, in its own unit per frame. direction: heading in radians (0 right, π/2 down) of the
    actions that travel, else None.
    """

    still: SceneSpec
    pairs: tuple[PairSpec, ...]
    action: int
    speed: float
    direction: float | None
    key: int

    @property
    def label(self) -> int:
        """Shape of the moving things, as an index into ``SHAPES``."""
        return self.still.label


@dataclass(frozen=True)
class ObjectTrack:
    """One thing through time: centre and radius in shares of the image side, angle in radians, each ``(T,)``."""

    spec: ObjectSpec
    x: Path
    y: Path
    angle: Path
    radius: Path


def clip_action(seed: int, index: int) -> int:
    """Action of clip ``index`` without planning the rest of it."""
    return mix(seed, 0xAC7104, index) % len(ACTIONS)


def clip_actions(count: int, seed: int) -> list[int]:
    """Actions of clips ``0 .. count - 1``."""
    return [int(v) for v in mix_range(count, seed, 0xAC7104) % len(ACTIONS)]


def plan_clip(seed: int, index: int) -> ClipSpec:
    """Describe clip ``index`` of generator ``seed``; shape and action are independent."""
    still = plan_scene(seed, index, CLIP_STYLE)
    still = replace(still, front=tuple(replace(f, radius=f.radius + 0.06) for f in still.front))
    action = clip_action(seed, index)
    stream = Stream("action", seed, index)
    pairs = tuple(
        _pair(still.objects[k], still.objects[k + 1], Stream("pair", seed, index, k))
        for k in range(0, len(still.objects), 2)
    )
    name, share, turn = ACTIONS[action], *stream.draw(2)
    direction = HEADINGS[name] + _SPREAD * (2 * turn - 1) if name in HEADINGS else None
    return ClipSpec(still, pairs, action, _speed(name, share), direction, mix(seed, index, 0x7E3B1E))


def _pair(first: ObjectSpec, second: ObjectSpec, stream: Stream) -> PairSpec:
    """Two of the scene's objects in a place of their own; their sizes keep the ratio they have in the still scene."""
    u = stream.draw(7)
    ratio = second.radius / first.radius
    swap = ratio > 1  # kin are drawn independently: the larger one sets the pair's size
    first, second = (second, first) if swap else (first, second)
    first = replace(first, radius=1.0, angle=2 * math.pi * u[0], velocity=(0.0, 0.0), spin=0.0)
    second = replace(second, radius=min(ratio, 1 / ratio), angle=2 * math.pi * u[1], velocity=(0.0, 0.0), spin=0.0)
    return PairSpec(first, second, _SIDE * u[2], _SIDE * u[3], 2 * math.pi * u[4], u[5], u[6])


def _speed(name: str, share: float) -> float:
    """Speed of an action: shares of the side, radians, or periods per frame."""
    if name in HEADINGS:
        return _SPEED[0] + (_SPEED[1] - _SPEED[0]) * share
    if name.startswith("turn"):
        return (_TURN[0] + (_TURN[1] - _TURN[0]) * share) * (1 if name == "turn-clockwise" else -1)
    if name in ("approach", "recede"):
        return 1 / (_PERIOD[0] + (_PERIOD[1] - _PERIOD[0]) * share)
    return 1 / (_SWING[0] + (_SWING[1] - _SWING[0]) * share) if name == "bounce" else 0.0


def tracks(spec: ClipSpec, times: Path) -> list[ObjectTrack]:
    """Where everything is at ``times (T,)`` in frames, in the order of ``spec.still.objects``."""
    return [track for number, pair in enumerate(spec.pairs) for track in _moved(spec, pair, number, times)]


def _moved(spec: ClipSpec, pair: PairSpec, number: int, times: Path) -> list[ObjectTrack]:
    """Both things of a pair."""
    name, none = ACTIONS[spec.action], np.zeros_like(times)
    rise = {"approach": _SLOW, "recede": 1 - _SLOW}.get(name)
    size = _wave(pair.size_phase + spec.speed * (times if rise else none), rise or _SLOW)
    big = _RADIUS[0] + (_RADIUS[1] - _RADIUS[0]) * size  # radius of the first thing (T,)
    gap = _GAP[0] + (_GAP[1] - _GAP[0]) * _wave(
        pair.gap_phase + spec.speed * (times if name == "bounce" else none), 0.5
    )
    turned = spec.speed * times if name.startswith("turn") else none
    apart = gap * big * (pair.first.radius + pair.second.radius) / 2  # from the middle to each centre
    c, s = _circle(pair.axis + turned)
    x, y = pair.x + none, pair.y + none
    if spec.direction is not None:
        ahead, down = (float(v) for v in _circle(np.array(spec.direction)))
        x, y = x + spec.speed * ahead * times, y + spec.speed * down * times
    if name == "still":
        shaken = np.array([uniform(2, spec.key, number, int(t)) for t in times]).reshape(-1, 2)
        x, y = x + _TREMBLE * (2 * shaken[:, 0] - 1), y + _TREMBLE * (2 * shaken[:, 1] - 1)
    return [
        ObjectTrack(
            thing,
            _wrapped(x + sign * apart * c),
            _wrapped(y + sign * apart * s),
            thing.angle + turned,
            big * thing.radius,
        )
        for thing, sign in ((pair.first, -1.0), (pair.second, 1.0))
    ]


def _wave(phase: Path, rise: float) -> Path:
    """A periodic ramp in [0, 1]: up during ``rise`` of its period, down in the rest. Uniform when its phase is."""
    part = phase - np.floor(phase)
    return np.where(part < rise, part / rise, (1 - part) / (1 - rise))


def _circle(angle: Path) -> tuple[Path, Path]:
    """Cosine and sine, rounded past the digits in which mathematical libraries differ."""
    return np.cos(angle).round(9), np.sin(angle).round(9)


def _wrapped(value: Path) -> Path:
    """On the torus: in [-margin, 1 + margin)."""
    return value - np.floor(value / _SIDE) * _SIDE - _MARGIN
