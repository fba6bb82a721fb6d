"""Where computed features are kept: the user's cache, a folder they name, or nowhere."""

from __future__ import annotations

import os
from pathlib import Path

from openjepa.errors import DataError

VARIABLE = "OPENJEPA_CACHE"
AUTO, NONE = "auto", "none"


def cache_place(wish: str | Path | None = AUTO) -> Path | None:
    """The folder features are cached in; None when they are not kept.

    Args:
        wish: a folder; ``"none"`` or None for no cache; ``"auto"``: what the environment variable OPENJEPA_CACHE says (a
            folder, or ``none``), else ``openjepa/features`` in the user's cache (XDG_CACHE_HOME or ``~/.cache``).

    Raises:
        DataError: the folder is a file.
    """
    if wish == AUTO:
        wish = os.environ.get(VARIABLE, "").strip() or _user_cache()
    if wish is None or str(wish).lower() == NONE:
        return None
    place = Path(wish).expanduser()
    if place.exists() and not place.is_dir():
        raise DataError(f"the cache '{place}' is a file: name a folder, or 'none' to keep no features")
    return place


def cache_size(place: Path) -> tuple[int, int]:
    """``(entries, bytes)`` of the features cached in a folder."""
    sizes = []
    try:
        for entry in os.scandir(place):
            if entry.name.startswith("features-") and entry.name.endswith(".safetensors"):
                sizes.append(entry.stat().st_size)
    except OSError:  # not there yet, or emptied by somebody else meanwhile
        return len(sizes), sum(sizes)
    return len(sizes), sum(sizes)


def cache_note(place: Path) -> str:
    """One line: where, how much, and how to do without."""
    entries, size = cache_size(place)
    return f"features are cached in {place} ({entries} entries, {size / 1e6:,.0f} MB; --cache none keeps none)"


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache") / "openjepa" / "features"
