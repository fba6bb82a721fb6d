"""Near duplicates: found, grouped, never invented; the table and the page say the same."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openjepa.errors import ConfigError, DataError
from openjepa.searching import duplicates, find_duplicates, open_index, search, write_duplicates, write_sheet
from openjepa.searching import index as index_file

from .conftest import ArrayStore, make_store


def planted(path: Path, count: int = 200) -> ArrayStore:
    """Random rows; 3, 50 and 120 show nearly the same, so do 7 and 8; 90 is an exact copy of 91."""
    values = np.random.default_rng(5).standard_normal((count, 24))
    for copies, source in (((50, 120), 3), ((8,), 7)):
        for row in copies:
            values[row] = values[source] + 0.02 * np.random.default_rng(row).standard_normal(24)
    values[90] = values[91]
    return make_store(path, values)


def test_planted_copies_are_found_and_nothing_else(tmp_path: Path) -> None:
    found = find_duplicates(open_index(planted(tmp_path / "f.npz")))
    assert [set(group.rows) for group in found.groups] == [{3, 50, 120}, {7, 8}, {90, 91}]
    assert found.extra == 4
    assert found.pairs == 5
    assert found.groups[2].similarity[1] == pytest.approx(1.0)
    assert all(value >= 0.99 for group in found.groups for value in group.similarity)


def test_blocks_do_not_change_what_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = open_index(planted(tmp_path / "f.npz"))
    whole = find_duplicates(index, threshold=0.5)
    monkeypatch.setattr(duplicates, "_BLOCK", 17)
    assert find_duplicates(index, threshold=0.5).groups == whole.groups
    assert whole.pairs > 100


def test_a_group_is_a_star_and_a_row_is_in_one(tmp_path: Path) -> None:
    found = find_duplicates(open_index(planted(tmp_path / "f.npz")), threshold=0.4)
    rows = [row for group in found.groups for row in group.rows]
    assert len(rows) == len(set(rows))
    unit = open_index(planted(tmp_path / "f.npz")).unit.astype(np.float64)
    for group in found.groups:
        assert all(unit[row] @ unit[group.rows[0]] >= 0.4 - 1e-6 for row in group.rows)


def test_conditions_windows_and_identical_data(tmp_path: Path) -> None:
    store = planted(tmp_path / "f.npz")
    odd = find_duplicates(open_index(store), where=["label=dog"])
    assert odd.groups == ()  # of the planted rows only 3, 7 and 91 are odd
    store.meta["index"][[3, 50, 120]] = 3  # windows of one video repeat each other without being duplicates
    assert [set(group.rows) for group in find_duplicates(open_index(store)).groups] == [{7, 8}, {90, 91}]
    same = make_store(tmp_path / "g.npz", np.tile(np.arange(5.0), (6, 1)))
    assert [group.rows for group in find_duplicates(open_index(same)).groups] == [(0, 1, 2, 3, 4, 5)]


def test_thresholds_that_mean_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = open_index(planted(tmp_path / "f.npz"))
    for threshold in (0.0, 1.5, -1.0):
        with pytest.raises(ConfigError, match="threshold"):
            find_duplicates(index, threshold=threshold)
    monkeypatch.setattr(duplicates, "_MOST_PAIRS", 20)
    with pytest.raises(DataError, match="raise the threshold"):
        find_duplicates(index, threshold=0.1)


def test_large_indexes_are_asked_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="the extra 'search' is not installed")
    monkeypatch.setattr(index_file, "SMALLEST", 100)
    monkeypatch.setattr(duplicates, "_EXACT_ROWS", 100)
    done: list[tuple[int, int]] = []
    index = open_index(planted(tmp_path / "f.npz", 1500))
    found = find_duplicates(index, on_progress=lambda at, of: done.append((at, of)))
    assert [set(group.rows) for group in found.groups] == [{3, 50, 120}, {7, 8}, {90, 91}]
    assert done[-1] == (1500, 1500)
    assert "32 nearest" in found.method


def test_the_report_is_one_page_and_one_table(tmp_path: Path) -> None:
    store = planted(tmp_path / "f.npz")
    store.ids[3] = store.ids[3] + "<script>"  # type: ignore[index]
    (tmp_path / "a").mkdir()
    Image.effect_noise((90, 60), 50).save(store.paths[3])
    (tmp_path / "a" / "0050.png").write_bytes(b"no image")
    page, table = write_duplicates(find_duplicates(open_index(store)), tmp_path / "out" / "dup.html")
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/") == 1
    assert "no longer there" in text
    assert "&lt;script&gt;" in text
    assert "<script>" not in text
    assert "4 of 200 rows repeat another, in 3 groups" in text
    assert not any(word in text for word in ("http://", "https://", 'src="/'))
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["group"], row["keep"]) for row in rows[:4]] == [("1", "yes"), ("1", "no"), ("1", "no"), ("2", "yes")]
    assert len(rows) == 7
    assert float(rows[1]["similarity"]) >= 0.99


def test_the_contact_sheet_shows_query_and_answers(tmp_path: Path) -> None:
    store = planted(tmp_path / "f.npz")
    (tmp_path / "a").mkdir()
    for row in (3, 50, 120):
        Image.effect_noise((300, 200), 30).save(store.paths[row])
    found = search(open_index(store), "a/0003.png", k=2)
    text = write_sheet(found, tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert text.count("data:image/") == 3
    assert "a/0050.png" in text
    assert "dog" not in text  # rows 50 and 120 are cats
    assert "cat" in text
