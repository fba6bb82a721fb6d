"""What a question found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from openjepa.searching.index import Index


@dataclass(frozen=True)
class Hit:
    """One answer. rank: from 1. row, id, path, label: of the index. similarity: cosine. start, end: seconds, of clips."""

    rank: int
    row: int
    id: str
    path: str
    label: str
    similarity: float
    start: float | None = None
    end: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dict(vars(self))


@dataclass(frozen=True)
class Asked:
    """The question as it was understood. text: in words. path: its file, ``""`` for none. at: seconds into it."""

    text: str
    path: str = ""
    at: float | None = None


@dataclass(frozen=True)
class Hits:
    """Answers, the most alike first. asked: the question. method: how they were found. seconds: of the search alone."""

    asked: Asked
    hits: tuple[Hit, ...]
    method: str
    seconds: float

    def __len__(self) -> int:
        return len(self.hits)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        query = {"text": self.asked.text, "path": self.asked.path, "at": self.asked.at}
        found = [hit.to_dict() for hit in self.hits]
        return {"query": query, "method": self.method, "seconds": round(self.seconds, 6), "hits": found}


def hit_of(index: Index, rank: int, row: int, similarity: float, span: tuple[float, float] | None = None) -> Hit:
    """The answer that row ``row`` is; ``span`` in place of its own times."""
    table = index.table
    times = span or table.times(row) or (None, None)
    return Hit(rank, row, table.ids[row], table.files[row], table.label(row), similarity, *times)
