"""What may be asked with, and what is said when it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from openjepa.errors import ConfigError, DataError
from openjepa.searching import Index, open_index, search

from .conftest import ArrayStore, make_store


def windows(path: Path) -> ArrayStore:
    """Two videos of 20 windows of 2 s every second: ``v`` turns slowly, ``w`` stands still but for one event."""
    angle = np.linspace(0, np.pi, 20)
    v = np.stack([np.cos(angle), np.sin(angle), np.zeros(20), np.zeros(20)], 1)
    w = np.tile([0.0, 0.0, 1.0, 0.2], (20, 1))
    w[9:12] = [0.2, 0.9, 0.3, 0.2]
    w[10] = [0.0, 1.0, 0.0, 0.0]
    starts = np.arange(20.0)
    return make_store(
        path,
        np.concatenate([v, w]),
        ids=[f"{name}.mp4@{start:g}" for name in "vw" for start in starts],
        paths=[str(path.parent / f"{name}.mp4") for name in "vw" for _ in starts],
        meta={"index": np.repeat([0, 1], 20), "start": np.tile(starts, 2), "end": np.tile(starts + 2, 2)},
        classes=None,
    )


def refused(index: Index, query: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        search(index, query, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_ids_paths_and_vectors_ask_the_same(store: ArrayStore, vectors: NDArray[np.float32]) -> None:
    index = open_index(store)
    by_id = search(index, "a/0009.png")
    assert search(index, store.paths[9]).hits == by_id.hits
    assert search(index, Path(store.paths[9])).hits == by_id.hits
    for vector in (vectors[9], torch.from_numpy(vectors[9])):
        found = search(index, vector, k=11)
        assert found.hits[0].row == 9
        assert [hit.row for hit in found.hits[1:]] == [hit.row for hit in by_id.hits]


def test_a_file_is_embedded_as_the_index_was(store: ArrayStore, vectors: NDArray[np.float32], tmp_path: Path) -> None:
    asked: list[tuple[Any, float | None]] = []

    def embed(item: Any, at: float | None) -> NDArray[np.float32]:
        asked.append((item, at))
        return vectors[20]

    (tmp_path / "new.png").write_bytes(b"")
    found = search(open_index(store), tmp_path / "new.png", embed=embed)
    assert asked == [(tmp_path / "new.png", None)]
    assert found.hits[0].row == 20
    assert found.asked.path == str(tmp_path / "new.png")


def test_what_cannot_be_asked_is_one_line(store: ArrayStore, tmp_path: Path) -> None:
    index = open_index(store)
    assert "did you mean 'a/0012.png'" in refused(index, "a/0012.pmg")
    (tmp_path / "new.png").write_bytes(b"")
    assert "no model" in refused(index, tmp_path / "new.png")
    assert "7 numbers" in refused(index, np.ones(7))
    assert "not finite" in refused(index, np.full(12, np.nan))
    with pytest.raises(ConfigError, match="k=0"):
        search(index, "a/0001.png", k=0)
    assert "--window" in refused(index, "a/0001.png", moments=True)
    assert "no times" in refused(index, "a/0001.png", at=3.0)


def test_a_window_is_named_by_its_time(tmp_path: Path) -> None:
    index = open_index(windows(tmp_path / "f.npz"))
    by_id = search(index, "v.mp4@7")
    assert search(index, "v.mp4", at=8.2).hits == by_id.hits  # windows at 7 and 8 hold it, the middle of 7 is nearer
    assert search(index, str(tmp_path / "v.mp4"), at=8.2).hits == by_id.hits
    assert by_id.asked.at == 8.0
    assert not {"v.mp4@6", "v.mp4@7", "v.mp4@8"} & {hit.id for hit in by_id.hits}  # they show the query itself
    assert "20 windows" in refused(index, "v.mp4")
    assert "end at 21 s" in refused(index, "v.mp4", at=99.0)


def test_moments_join_windows_and_find_events(tmp_path: Path) -> None:
    index = open_index(windows(tmp_path / "f.npz"), centre=False)
    event = search(index, np.array([0.0, 1.0, 0.0, 0.0]), moments=True, k=2)
    by_video = {hit.path[-5]: hit for hit in event.hits}
    assert set(by_video) == {"v", "w"}
    assert (by_video["w"].start, by_video["w"].end) == (9.0, 13.0)
    assert by_video["w"].id == "w.mp4@10"
    assert by_video["w"].similarity == pytest.approx(1.0)
    turn = by_video["v"]
    assert turn.start is not None
    assert turn.end is not None
    assert 2 < turn.start < 10 < turn.end < 19


def test_moments_leave_out_the_query_itself(tmp_path: Path) -> None:
    index = open_index(windows(tmp_path / "f.npz"), centre=False)
    found = search(index, "w.mp4@10", moments=True, k=5)
    assert found.hits[0].path.endswith("v.mp4")
    assert all(not (h.path.endswith("w.mp4") and h.start < 12 and h.end > 10) for h in found.hits)  # type: ignore[operator]


def test_moments_of_one_video_do_not_overlap(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    count = 60
    starts = np.arange(count) * 0.5
    store = make_store(
        tmp_path / "f.npz",
        generator.standard_normal((count, 5)),
        ids=[f"v@{s:g}" for s in starts],
        paths=["v"] * count,
        meta={"index": np.zeros(count, np.int64), "start": starts, "end": starts + 2},
        classes=None,
    )
    found = search(open_index(store), generator.standard_normal(5), moments=True, k=6)
    peaks = [(store.meta["start"][hit.row], store.meta["end"][hit.row]) for hit in found.hits]
    assert len(peaks) > 2
    for n, (a, b) in enumerate(peaks):
        assert all(b <= c or d <= a for c, d in peaks[n + 1 :])
    assert [hit.similarity for hit in found.hits] == sorted((hit.similarity for hit in found.hits), reverse=True)
