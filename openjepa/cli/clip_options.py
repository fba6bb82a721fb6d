"""The options that say how videos are looked at, added to every command of ``openjepa evaluate`` that encodes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_type_hints

import typer

_PANEL = "Videos"


def _option(help_text: str, *names: str, **limits: Any) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=_PANEL, **limits)


_FRAMES = Annotated[
    int | None, _option("frames of a clip; by default as trained; needed to show videos to an encoder of images", min=1)
]
_FPS = Annotated[float | None, _option("frames per second of a clip, by presentation time")]
_STRIDE = Annotated[int | None, _option("every n-th frame of the file, instead of --fps", min=1)]
_CLIPS = Annotated[int, _option("clips of each video, spread evenly", "--clips", min=1)]
_VIEWS = Annotated[int, _option("spatial views of each val clip: 1, the centre, or 3 along the longer side")]
_ACROSS = Annotated[
    Literal["attend", "average"],
    _option("a probe reads the tokens of all clips at once, or each clip by itself; probabilities are averaged"),
]
_IMAGES = Annotated[bool, _option("show images to an encoder of video, each as one tubelet", "--as-images")]

_EXTRA: dict[str, tuple[Any, Any]] = {
    "frames": (_FRAMES, None),
    "fps": (_FPS, None),
    "stride": (_STRIDE, None),
    "segments": (_CLIPS, 1),
    "views": (_VIEWS, 1),
    "across": (_ACROSS, "attend"),
    "as_images": (_IMAGES, False),
}


def with_clips(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of clips: its keyword ``clips`` receives what was set, by name.

    The command's own options come first in the help; ``clips`` is none of them, and a name it has already stays its own.
    """
    signature = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    own = [
        part.replace(annotation=hints.get(name, part.annotation))
        for name, part in signature.parameters.items()
        if name != "clips"
    ]
    extra = {name: part for name, part in _EXTRA.items() if name not in signature.parameters}
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in extra.items()
    ]

    @functools.wraps(command)
    def wrapped(**words: Any) -> None:
        chosen = {name: words.pop(name) for name in extra}
        given = {name: value for name, value in chosen.items() if value != extra[name][1]}
        command(**words, clips=given)

    every = [part.replace(kind=inspect.Parameter.KEYWORD_ONLY) for part in own] + more
    wrapped.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {part.name: part.annotation for part in every}
    del wrapped.__wrapped__
    return wrapped
