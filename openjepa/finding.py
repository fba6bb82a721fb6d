"""The verb ``search``: a store of features opened as an index, and what is asked about embedded just as its rows were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from openjepa import searching
from openjepa.data.readers import is_image_name
from openjepa.embedding import Store, iterate, model_fingerprint, open_store
from openjepa.errors import ConfigError, DataError, OpenJepaError
from openjepa.features import ClipOptions
from openjepa.features.extraction import Layers
from openjepa.judging import choose_device
from openjepa.loading import load
from openjepa.model import AnyModel
from openjepa.searching import THRESHOLD, Duplicates, Hits, Index
from openjepa.searching.question import Embedder

__all__ = ["find_duplicates", "open_index", "search"]

Say = Callable[[str], None]


def _silent(sentence: str) -> None:
    """Say nothing."""


def open_index(
    index: str | Path | Store,
    *,
    approximate: bool = True,
    centre: bool = True,
    keep: str | Path | None = None,
    say: Say = _silent,
) -> Index:
    """Open what ``openjepa embed`` wrote for questions; opened once, it answers many in milliseconds.

    Args:
        index: the file or folder of features. approximate: allow approximate answers from 20,000 rows on (needs faiss).
        centre: compare features minus their mean, as the kNN score does. keep: where unit vectors and the approximate index
            of a large store are kept; by default ``<index>.search``. say: hears what takes long.

    Raises:
        ConfigError, DataError, RunError, MissingExtra: one line each.
    """
    store = index if isinstance(index, Store) else open_store(index)
    return searching.open_index(store, approximate=approximate, centre=centre, keep=keep, say=say)


def search(
    index: str | Path | Store | Index,
    query: Any,
    *,
    k: int = 10,
    where: Sequence[str] = (),
    at: float | None = None,
    moments: bool = False,
    model: str | Path | AnyModel | None = None,
    probe: str | Path | None = None,
    approximate: bool = True,
    centre: bool = True,
    keep: str | Path | None = None,
    device: str = "auto",
    say: Say = _silent,
) -> Hits:
    """The items of an index most like a query, the best first.

    Args:
        index: features that ``openjepa embed`` wrote, or an opened index (:func:`open_index`, whose settings then count).
        query: an id or a path of the index, the path of any image or clip, a PIL image or tensor, or a vector ``(D,)``.
        k: how many. where: conditions such as ``label=cat``, ``path~=holiday``, ``start>=30``; all must hold.
        at: seconds into a video: which window asks. moments: neighbouring windows of a video are one answer.
        model: what the query is embedded with; by default the model that made the index. Another one is refused.
        probe: for an index of attentive tokens, the probe it was made with. device: for embedding the query.
        approximate, centre, keep, say: see :func:`open_index`.

    Raises:
        ConfigError, DataError, CheckpointError, RunError, MissingExtra: one line each.
    """
    opened = index
    if not isinstance(opened, Index):
        opened = open_index(opened, approximate=approximate, centre=centre, keep=keep, say=say)
    store = opened.table.store
    embed: Embedder | None = None
    if isinstance(store, Store):
        maker = _Maker(store, model, probe, choose_device(device))
        if model is not None:
            maker.model()  # a wrong one is refused whatever is asked
        embed = maker
    return searching.search(opened, query, k=k, where=where, at=at, moments=moments, embed=embed)


def find_duplicates(
    index: str | Path | Store | Index,
    *,
    threshold: float = THRESHOLD,
    where: Sequence[str] = (),
    approximate: bool = True,
    centre: bool = True,
    keep: str | Path | None = None,
    say: Say = _silent,
    on_progress: Callable[[int, int], None] | None = None,
) -> Duplicates:
    """Near duplicates among the items of an index: groups whose features have a cosine of ``threshold`` or more to their first.

    Up to 50,000 rows every pair is compared; above, the 32 nearest of each row (all pairs with ``approximate=False``).

    Raises:
        ConfigError, DataError, RunError, MissingExtra: one line each.
    """
    opened = index
    if not isinstance(opened, Index):
        opened = open_index(opened, approximate=approximate, centre=centre, keep=keep, say=say)
    return searching.find_duplicates(opened, threshold=threshold, where=where, on_progress=on_progress)


class _Maker:
    """Embeds a query with the model and settings that made a store; the model is loaded when it is first needed."""

    def __init__(
        self, store: Store, model: str | Path | AnyModel | None, probe: str | Path | None, device: str
    ) -> None:
        self.store, self.wish, self.device = store, model, device
        self.probe = None if probe is None else str(probe)
        self._loaded: AnyModel | None = None

    def __call__(self, item: Any, at: float | None) -> NDArray[np.floating]:
        """Features ``(D,)`` of a path, a picture or a tensor."""
        model, settings = self.model(), self.store.settings
        if not isinstance(item, str | Path):
            if settings["tokens"] != "pooled":
                raise ConfigError(f"{self.store.path} holds {settings['tokens']} tokens: ask by a file, not a picture")
            layers: Layers = settings["layers"]
            assert layers in get_args(Layers)
            return model.to(self.device).embed(item, layers=layers)[0].numpy()
        return self._of_file(model, str(item), at)

    def model(self) -> AnyModel:
        """The model of the index.

        Raises:
            DataError: it is another one, or cannot be loaded.
        """
        if self._loaded is not None:
            return self._loaded
        made_by = self.store.about["model"]["name"]
        wish = made_by if self.wish is None else self.wish
        try:
            found = wish if isinstance(wish, AnyModel) else load(wish)
        except OpenJepaError as error:
            if self.wish is not None:
                raise
            raise DataError(
                f"the query needs '{made_by}', which made {self.store.path} and cannot be loaded ({error}): give --model"
            ) from error
        if model_fingerprint(found) != self.store.model:
            name = found.name if isinstance(wish, AnyModel) else wish
            changed = f"which has changed since: embed again, or give --model the one of {self.store.model[:8]}"
            other = f"not by '{name}': features of two models do not compare; leave --model out, or embed again"
            raise DataError(f"{self.store.path} was made by '{made_by}', {changed if self.wish is None else other}")
        self._loaded = found
        return found

    def _of_file(self, model: AnyModel, path: str, at: float | None) -> NDArray[np.floating]:
        """A file as a data set of one, through the very code that made the index."""
        settings = self.store.settings
        image = is_image_name(path) and model.clip is not None
        window = None if image else settings["window"]
        rows = list(
            iterate(
                path,
                model,
                tokens=settings["tokens"],
                layers=settings["layers"],
                clips=ClipOptions(as_images=True) if image else _clips_of(settings, model),
                window=window,
                hop=settings["hop"] if window is not None else None,
                precision=settings["precision"],
                probe=self.probe,
                workers=0,
                device=self.device,
            )
        )
        texts = [text for part in rows for text in part.texts["error"]]
        if len(set(texts)) == 1 and texts[0]:
            raise DataError(f"'{path}' cannot be asked with: {texts[0]}")
        good = [part for part in rows if part.values is not None]
        values = np.concatenate([part.values for part in good if part.values is not None]).astype(np.float32)
        start, end = (np.concatenate([part.numbers[name] for part in good]) for name in ("start", "end"))
        if len(values) == 1 and at is None:
            return values[0]
        return values[_chosen(path, start, end, at)]


def _clips_of(settings: Mapping[str, Any], model: AnyModel) -> ClipOptions:
    """How the index looked at its samples."""
    clip = settings["clip"]
    if not clip:
        return ClipOptions(as_images=model.clip is not None)
    if settings["window"] is not None:
        return ClipOptions(frames=clip["frames"])
    return ClipOptions(frames=clip["frames"], fps=clip.get("fps"), stride=clip.get("stride"), segments=clip["segments"])


def _chosen(path: str, start: NDArray[np.float64], end: NDArray[np.float64], at: float | None) -> int:
    """The window that asks: the one around ``at``, else the one in the middle of the video."""
    if np.isnan(start).all():
        raise ConfigError(f"'{path}' has no times: --at is for videos, in an index made with --window")
    moment = (np.nanmin(start) + np.nanmax(end)) / 2 if at is None else at
    holds = (start <= moment) & (moment <= end)
    if not holds.any():
        raise DataError(f"'{path}' has no window at {moment:g} s: it ends at {np.nanmax(end):g} s")
    return int(np.argmin(np.where(holds, np.abs((start + end) / 2 - moment), np.inf)))
