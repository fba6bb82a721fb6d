"""Where features are kept: named, by environment, in the user's cache, or nowhere; large entries are not."""

from pathlib import Path

import pytest

from openjepa.errors import DataError
from openjepa.features import cache_note, cache_place, cache_size


def test_the_order_of_wishes(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENJEPA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_place() == tmp_path / "openjepa" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_place() == Path.home() / ".cache" / "openjepa" / "features"
    monkeypatch.setenv("OPENJEPA_CACHE", str(tmp_path / "mine"))
    assert cache_place() == tmp_path / "mine"
    assert cache_place("elsewhere") == Path("elsewhere")
    for nothing in ("none", "None", None):
        assert cache_place(nothing) is None
    monkeypatch.setenv("OPENJEPA_CACHE", "none")
    assert cache_place("auto") is None
    monkeypatch.setenv("OPENJEPA_CACHE", "")
    assert cache_place() is not None


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        cache_place(tmp_path / "file")


def test_size_and_note(tmp_path):
    assert cache_size(tmp_path / "nowhere") == (0, 0)
    (tmp_path / "features-a.safetensors").write_bytes(b"x" * 2_000_000)
    (tmp_path / "features-a.json").write_text("{}")
    (tmp_path / "other").write_text("not ours")
    assert cache_size(tmp_path) == (1, 2_000_000)
    assert "1 entries, 2 MB; --cache none keeps none" in cache_note(tmp_path)
