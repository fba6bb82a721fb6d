"""One picture of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tile:
    """One picture of the page: its ``data:`` address, what it shows (alternative text) and extra facts by name."""

    uri: str
    alt: str
    facts: Mapping[str, Any]
