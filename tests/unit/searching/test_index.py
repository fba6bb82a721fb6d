"""Exact answers are those of the plain formula; working folders are reused, made again, and never trusted when damaged."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from openjepa.errors import DataError, RunError
from openjepa.searching import index as index_file
from openjepa.searching import open_index, search
from openjepa.searching.exact import exact_topk

from .conftest import ArrayStore, make_store


def unit(values: NDArray[np.floating], mean: NDArray[np.floating] | None = None) -> NDArray[np.float64]:
    moved = values.astype(np.float64) - (0 if mean is None else mean)
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


@pytest.mark.parametrize("centre", [True, False])
def test_answers_are_those_of_the_formula(store: ArrayStore, vectors: NDArray[np.float32], centre: bool) -> None:
    found = search(open_index(store, centre=centre), "a/0007.png", k=5)
    rows = unit(vectors, vectors.astype(np.float64).mean(0) if centre else None)
    cosine = rows @ rows[7]
    cosine[7] = -2
    best = np.argsort(-cosine, kind="stable")[:5]
    assert [hit.row for hit in found.hits] == best.tolist()
    assert [hit.rank for hit in found.hits] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose([hit.similarity for hit in found.hits], cosine[best], atol=1e-6)


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 1000))
@hypothesis_settings(max_examples=40, deadline=None)
def test_exact_search_over_blocks_and_subsets_is_a_sort(count: int, k: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = unit(generator.integers(-2, 3, (count, 4)) + 0.1).astype(np.float32)  # few values: many ties
    chosen = np.sort(generator.choice(count, generator.integers(1, count + 1), replace=False))
    k = min(k, len(chosen))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("openjepa.searching.exact._BLOCK_BYTES", 4 * 4 * 7)
        cosine, found = exact_topk(rows, rows[:3], k, rows=chosen)
    for q in range(min(3, count)):
        true = np.array([(rows[r].astype(np.float64) * rows[q].astype(np.float64)).sum() for r in chosen])
        np.testing.assert_array_equal(cosine[q], np.sort(true)[::-1][:k])
        assert len(set(found[q])) == k
        assert set(found[q]) <= set(chosen.tolist())


def test_equal_rows_come_in_their_order(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((40, 6))
    values[[5, 17, 30]] = values[2]
    found = search(open_index(make_store(tmp_path / "f.npz", values)), "a/0002.png", k=3)
    assert [hit.row for hit in found.hits] == [5, 17, 30]
    assert [hit.similarity for hit in found.hits] == pytest.approx([1, 1, 1], abs=1e-6)


def test_conditions_bad_rows_and_labels(store: ArrayStore) -> None:
    store.values[[3, 8]] = np.nan
    store.ok[[3, 8]] = False
    index = open_index(store)
    assert len(index) == 298
    found = search(index, "a/0001.png", k=400, where=["label=dog"])
    assert len(found) == 148  # 150 dogs, one unreadable (3), one asks
    assert {hit.label for hit in found.hits} == {"dog"}
    assert not {"a/0003.png", "a/0008.png"} & {hit.id for hit in found.hits}
    with pytest.raises(DataError, match="no row of .* meets"):
        search(index, "a/0001.png", where=["label=cow"])


def test_an_index_of_one_is_no_crash(tmp_path: Path) -> None:
    index = open_index(make_store(tmp_path / "f.npz", np.ones((1, 3))))
    assert len(search(index, np.array([1.0, 2.0, 3.0]))) == 1
    assert len(search(index, "a/0000.png")) == 0


def test_features_that_are_not_vectors_or_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2×3 numbers a row"):
        open_index(make_store(tmp_path / "f.npz", np.ones((4, 2, 3))))
    values = np.ones((4, 3))
    values[1, 1] = np.inf
    with pytest.raises(DataError, match="not finite"):
        open_index(make_store(tmp_path / "f.npz", values))
    with pytest.raises(DataError, match="holds no feature"):
        open_index(make_store(tmp_path / "f.npz", np.full((3, 2), np.nan)))


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders from 100 rows on."""
    monkeypatch.setattr(index_file, "SMALLEST", 100)


@pytest.mark.usefixtures("_small")
def test_the_folder_is_kept_and_made_again_when_the_store_changed(store: ArrayStore) -> None:
    plain = search(open_index(store, approximate=False), "a/0007.png")
    place = store.path.with_name("f.npz.search")
    written = (place / "about.json").stat().st_mtime_ns
    again = search(open_index(store, approximate=False), "a/0007.png")
    assert (place / "about.json").stat().st_mtime_ns == written
    assert [hit.to_dict() for hit in plain.hits] == [hit.to_dict() for hit in again.hits]
    store.values = store.values[::-1].copy()
    store.stamp = "two"
    changed = search(open_index(store, approximate=False), "a/0007.png")
    assert (place / "about.json").stat().st_mtime_ns != written
    assert [hit.row for hit in changed.hits] != [hit.row for hit in plain.hits]
    assert not [path for path in place.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("damage", ["cut", "about", "gone"])
def test_a_damaged_folder_is_made_again(store: ArrayStore, damage: str) -> None:
    first = search(open_index(store, approximate=False), "a/0007.png")
    place = store.path.with_name("f.npz.search")
    if damage == "cut":
        (place / "vectors.npy").write_bytes((place / "vectors.npy").read_bytes()[:-50])
    elif damage == "about":
        (place / "about.json").write_text("{")
    else:
        (place / "mean.npy").unlink()
    assert search(open_index(store, approximate=False), "a/0007.png").hits == first.hits


@pytest.mark.usefixtures("_small")
def test_a_folder_that_cannot_be_written_is_one_line(store: ArrayStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError) as caught:
        open_index(store, approximate=False, keep=tmp_path / "file" / "x")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("_small")
def test_a_killed_build_leaves_nothing_that_is_taken_for_an_index(store: ArrayStore) -> None:
    """The process dies in the middle of the vectors, as by kill -9: the next question builds from the start."""
    place = store.path.with_name("f.npz.search")
    if os.fork() == 0:
        whole = store.chunks
        store.chunks = lambda rows=7: (part if n < 40 else os._exit(9) for n, part in enumerate(whole()))  # type: ignore[method-assign, misc, assignment]
        store.meta = {**store.meta}
        index_file.mean_of = lambda table: np.zeros(12)  # type: ignore[assignment]
        open_index(store, approximate=False)
        os._exit(0)
    assert os.WEXITSTATUS(os.wait()[1]) == 9
    assert not place.exists()
    assert [path.name for path in place.parent.iterdir() if path.name.startswith(".new-")]
    found = search(open_index(store, approximate=False), "a/0007.png")
    assert len(found) == 10
    assert not [path for path in place.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("_small")
def test_a_disk_that_gets_full_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    resource = pytest.importorskip("resource")
    store = make_store(tmp_path / "f.npz", np.random.default_rng(0).standard_normal((4000, 16)))
    report = tmp_path / "said"
    if os.fork() == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            open_index(store, approximate=False)
        except RunError as error:
            report.write_text(str(error))
        os._exit(0)
    assert os.wait()[1] == 0
    assert "larger than this process may write" in report.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["said"]


@pytest.mark.usefixtures("_small")
def test_centred_and_plain_folders_are_not_mixed_up(store: ArrayStore) -> None:
    centred = search(open_index(store, approximate=False), "a/0007.png")
    plain = search(open_index(store, approximate=False, centre=False), "a/0007.png")
    assert plain.hits[0].similarity > centred.hits[0].similarity  # a large common mean makes everything alike
    assert search(open_index(store, approximate=False), "a/0007.png").hits == centred.hits


@pytest.mark.usefixtures("_small")
def test_the_approximate_index_finds_what_the_exact_one_does(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="the extra 'search' is not installed")
    generator = np.random.default_rng(2)
    values = generator.standard_normal((40, 16))[generator.integers(0, 40, 3000)]
    values = values + 0.3 * generator.standard_normal(values.shape) + 2
    store = make_store(tmp_path / "f.npz", values)
    said: list[str] = []
    index = open_index(store, say=said.append)
    assert index.approximate is not None
    assert index.approximate.tuning.recall >= 0.98
    assert len(said) == 4
    exact = open_index(store, approximate=False)
    shares = []
    for row in range(0, 3000, 60):
        near, true = (search(i, f"a/{row:04d}.png") for i in (index, exact))
        shares.append(len({h.row for h in near.hits} & {h.row for h in true.hits}) / 10)
        assert near.hits[0] == true.hits[0]  # scored again on the float vectors
    assert np.mean(shares) >= 0.95
    again = open_index(store, say=said.append)
    assert len(said) == 4  # opened, not built
    assert search(again, "a/0060.png").hits == search(index, "a/0060.png").hits
    about = json.loads((tmp_path / "f.npz.search" / "about.json").read_text())
    assert about["tuning"]["lists"] == 128
    before = search(index, "a/0060.png").hits
    lists = tmp_path / "f.npz.search" / "lists.faiss"
    lists.unlink()
    lists.write_bytes(b"x" * about["files"]["lists.faiss"])
    assert search(open_index(store), "a/0060.png").hits == before


@pytest.mark.usefixtures("_small")
def test_the_approximate_index_keeps_to_conditions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="the extra 'search' is not installed")
    monkeypatch.setattr(index_file, "_FEW", 10)
    values = np.random.default_rng(3).standard_normal((2000, 8))
    store = make_store(tmp_path / "f.npz", values)
    index = open_index(store)
    found = search(index, "a/0011.png", where=["label=cat"], k=20)
    true = search(open_index(store, approximate=False), "a/0011.png", where=["label=cat"], k=20)
    assert {hit.label for hit in found.hits} == {"cat"}
    assert len({h.row for h in found.hits} & {h.row for h in true.hits}) >= 18


@pytest.mark.usefixtures("_small")
def test_conditions_far_from_the_query_still_get_all_their_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cats and dogs lie apart: the lists near a cat hold no dog at all."""
    pytest.importorskip("faiss", reason="the extra 'search' is not installed")
    monkeypatch.setattr(index_file, "_FEW", 10)
    values = np.random.default_rng(4).standard_normal((2000, 8)) * 0.3
    values[::2, 0] += 5
    values[1::2, 0] -= 5
    store = make_store(tmp_path / "f.npz", values)
    index, exact = open_index(store), open_index(store, approximate=False)
    assert index.approximate is not None
    index.approximate.tuning = replace(index.approximate.tuning, probes=1)
    near, true = (search(i, "a/0010.png", where=["label=dog"], k=15) for i in (index, exact))
    assert near.hits == true.hits
    assert len(near) == 15
