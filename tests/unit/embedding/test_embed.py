"""``embed`` and ``iterate``: rows equal to what the model says of each item, bad files as rows, resuming, refusing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import openjepa
from openjepa.embedding import embed, iterate, open_store
from openjepa.embedding import filling as filling_room
from openjepa.embedding.parts import PartsFolder
from openjepa.errors import ConfigError, DataError, RunError
from openjepa.features import ClipOptions

BAD = ["cat/015.jpg", "dög/016.jpg"]
QUIET = {"workers": 0, "device": "cpu"}


@pytest.mark.parametrize("ending", ["parquet", "npz", "safetensors", "lance", "zarr"])
def test_every_format_holds_what_the_model_says(tmp_path, pictures, image_model, ending):
    if ending in ("parquet", "lance"):
        pytest.importorskip("pyarrow")
    if ending in ("lance", "zarr"):
        pytest.importorskip(ending)
    found = embed(pictures, image_model, tmp_path / f"f.{ending}", batch_size=4, **QUIET)
    assert (found.rows, found.failed, found.shape, found.computed) == (30, 2, (16,), 30)
    assert sorted(found.bad) == BAD
    store = open_store(found.path)
    assert len(set(store.ids)) == 30
    assert sorted(store.ids[i] for i in np.flatnonzero(~store.ok)) == BAD
    assert all(Path(path) == pictures / name for path, name in zip(store.paths, store.ids, strict=True))
    assert [store.classes[label] for label in store.meta["label"]] == [name.split("/")[0] for name in store.ids]
    assert np.isnan(store.meta["start"]).all()
    good = np.flatnonzero(store.ok)
    said = openjepa.load(image_model).embed([store.paths[i] for i in good])
    np.testing.assert_allclose(store.vectors()[good], said, atol=1e-5)
    assert np.isnan(store.vectors()[~store.ok]).all()
    assert not PartsFolder.beside(found.path).path.exists()


def test_iterate_streams_the_same_rows(tmp_path, pictures, image_model):
    store = open_store(embed(pictures, image_model, tmp_path / "f.npz", batch_size=7, **QUIET).path)
    rows = list(iterate(pictures, image_model, batch_size=4, workers=2, device="cpu"))
    assert [name for part in rows for name in part.texts["id"]] == store.ids
    assert [text for part in rows for text in part.texts["error"]] == store.meta["error"].tolist()
    values = np.concatenate([part.filled((16,), "float32") for part in rows])
    np.testing.assert_allclose(values, store.vectors(), atol=1e-5)
    assert torch.is_grad_enabled()


def test_patch_tokens_and_half_precision(tmp_path, pictures, image_model):
    found = embed(pictures, image_model, tmp_path / "f.safetensors", tokens="patch", dtype="float16", **QUIET)
    store = open_store(found.path)
    tokens = openjepa.load(image_model).embed(store.paths[0], tokens="patch")[0]
    assert store.shape == tuple(tokens.shape)
    np.testing.assert_allclose(store.vectors()[0], tokens, atol=3e-3)
    from safetensors.numpy import load_file

    plain = load_file(found.path)  # other people's readers open it too
    assert plain["feature"].dtype == np.float16
    np.testing.assert_array_equal(plain["label"], store.meta["label"])


def test_clips_have_times_and_frames(tmp_path, films, clip_model):
    store = open_store(embed(films, clip_model, tmp_path / "f.npz", tokens="frame", **QUIET).path)
    assert store.ids == ["film0.mp4", "film1.mp4", "film1b.mp4", "film2.mp4"]
    assert store.ok.tolist() == [True, True, False, True]
    model = openjepa.load(clip_model)
    patches = model.embed([store.paths[1]], tokens="patch")[0]  # (t·h·w, D)
    np.testing.assert_allclose(store.vectors()[1], patches.unflatten(0, (2, -1)).mean(1), atol=1e-5)
    np.testing.assert_allclose(store.meta["end"][1] - store.meta["start"][1], 0.5, atol=1e-6)  # 4 frames at 8 fps
    np.testing.assert_allclose(store.meta["start"][1], 1.25, atol=0.13)  # in the middle of 3 s


def test_windows_are_those_of_embed_video(tmp_path, films, clip_model):
    found = embed(films, clip_model, tmp_path / "f.npz", window=0.5, hop=0.4, workers=2, device="cpu", batch_size=3)
    store = open_store(found.path)
    model = openjepa.load(clip_model)
    assert len(set(store.ids)) == len(store)
    for item, name in ((0, "film0.mp4"), (1, "film1.mp4"), (3, "film2.mp4")):
        rows = np.flatnonzero(store.meta["index"] == item)
        said = model.embed_video(films / name, window=0.5, hop=0.4)
        np.testing.assert_allclose(store.meta["start"][rows], said.start, atol=1e-9)
        np.testing.assert_allclose(store.meta["end"][rows], said.end, atol=1e-9)
        np.testing.assert_allclose(store.vectors()[rows], said.values, atol=1e-5)
    assert np.flatnonzero(store.meta["index"] == 2).size == 1
    assert not store.ok[store.meta["index"] == 2].any()


def test_images_frame_by_frame(tmp_path, films, image_model):
    look = ClipOptions(frames=3, fps=4.0)
    store = open_store(embed(films, image_model, tmp_path / "f.npz", tokens="frame", clips=look, **QUIET).path)
    assert store.shape == (3, 16)
    pooled = openjepa.load(image_model).seen(look).embed([store.paths[0]])[0]
    np.testing.assert_allclose(store.vectors()[0].mean(0), pooled, atol=1e-5)


def test_the_same_command_again_has_nothing_to_do(tmp_path, pictures, image_model, other_model):
    out = tmp_path / "f.npz"
    first = embed(pictures, image_model, out, **QUIET)
    content = out.read_bytes()
    again = embed(pictures, image_model, out, batch_size=3, **QUIET)
    assert (again.computed, again.rows) == (0, first.rows)
    assert out.read_bytes() == content
    with pytest.raises(RunError, match="another model.*--overwrite"):
        embed(pictures, other_model, out, **QUIET)
    with pytest.raises(RunError, match="other settings .tokens pooled, now patch"):
        embed(pictures, image_model, out, tokens="patch", **QUIET)
    assert out.read_bytes() == content
    embed(pictures, other_model, out, overwrite=True, **QUIET)
    assert open_store(out).model != open_store(embed(pictures, image_model, tmp_path / "g.npz", **QUIET).path).model


def test_parts_of_another_embedding_are_not_mixed_in(tmp_path, pictures, image_model, other_model, monkeypatch):
    out = tmp_path / "f.npz"
    stop_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        embed(pictures, image_model, out, batch_size=4, **QUIET)
    monkeypatch.undo()
    assert len(PartsFolder.beside(out).spans()) == 2
    with pytest.raises(RunError, match="was begun with another model"):
        embed(pictures, other_model, out, **QUIET)
    found = embed(pictures, image_model, out, batch_size=5, **QUIET)
    assert found.computed == 22
    whole = embed(pictures, image_model, tmp_path / "g.npz", **QUIET)
    np.testing.assert_allclose(open_store(out).vectors(), open_store(whole.path).vectors(), atol=1e-5)


def test_damaged_and_overlapping_parts_are_put_right(tmp_path, pictures, image_model, monkeypatch):
    """Overlaps come from a process that outlived a killed parent, or from another batch size."""
    outs = tmp_path / "f.npz", tmp_path / "other.npz"
    for out, size in zip(outs, (4, 6), strict=True):
        with monkeypatch.context() as patch:
            stop_after(patch, 3)
            with pytest.raises(KeyboardInterrupt):
                embed(pictures, image_model, out, batch_size=size, **QUIET)
    folder, other = map(PartsFolder.beside, outs)
    assert (folder.spans(), other.spans()) == ([(0, 4), (4, 8), (8, 12)], [(0, 6), (6, 12), (12, 18)])
    for name in ("rows-0000000006-0000000012", "rows-0000000012-0000000018"):
        shutil.copytree(other.path / name, folder.path / name)
    target = folder.path / "rows-0000000004-0000000008" / "values.safetensors"
    target.write_bytes(target.read_bytes()[:-3])
    found = embed(pictures, image_model, outs[0], batch_size=4, **QUIET)
    assert found.computed == 2 + 12  # rows 4 and 5, and those after 17
    whole = open_store(embed(pictures, image_model, tmp_path / "g.npz", **QUIET).path)
    assert open_store(found.path).ids == whole.ids
    np.testing.assert_allclose(open_store(found.path).vectors(), whole.vectors(), atol=1e-5)


def stop_after(monkeypatch, parts):
    """Ctrl-C after so many parts; each batch is one."""
    add, count = PartsFolder.add, [0]

    def counted(self, start, rows):
        add(self, start, rows)
        count[0] += 1
        if count[0] == parts:
            raise KeyboardInterrupt

    monkeypatch.setattr(PartsFolder, "add", counted)
    monkeypatch.setattr(filling_room, "PART_SECONDS", -1.0)


def lines(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_bad_input_is_one_line_and_nothing_is_left(tmp_path, pictures, films, image_model, clip_model):
    out = tmp_path / "f.npz"
    cases = [
        (ConfigError, "did you mean '.parquet'", {"out": tmp_path / "f.parket"}),
        (ConfigError, "did you mean 'pooled'", {"tokens": "poolde"}),
        (ConfigError, "of clips", {"tokens": "frame"}),
        (ConfigError, "needs an attentive probe", {"tokens": "attentive"}),
        (ConfigError, "give --frames", {"window": 1.0}),
        (ConfigError, "give --window too", {"hop": 1.0}),
        (ConfigError, "above 0", {"window": -1.0, "model": clip_model, "data": films}),
        (ConfigError, "at least 1", {"batch_size": 0}),
        (ConfigError, "at least 1", {"jobs": 0}),
        (ConfigError, "local, ray", {"engine": "rai"}),
        (ConfigError, "is not there", {"device": "cuda:99"}),
        (DataError, "video", {"data": films}),
        (DataError, "image", {"model": clip_model}),
        (DataError, "nothing|no such|not there|does not exist", {"data": tmp_path / "nowhere"}),
    ]
    for kind, match, change in cases:
        words = {"data": pictures, "model": image_model, "out": out, "device": "cpu", "workers": 0, **change}
        with pytest.raises(kind, match=match) as caught:
            embed(**words)
        lines(caught)
        assert list(tmp_path.iterdir()) == [], change


def test_nothing_readable_is_an_error(tmp_path, image_model):
    data = tmp_path / "data"
    data.mkdir()
    for name in "ab":
        (data / f"{name}.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"none of the 2 items .* the first: a.jpg: not an image") as caught:
        embed(data, image_model, tmp_path / "f.npz", **QUIET)
    lines(caught)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_full_disk_is_one_line_and_what_was_computed_stays(tmp_path, pictures, image_model, monkeypatch):
    from openjepa.embedding import formats

    def full(path, layout, parts):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    entry = formats.FORMATS[".npz"]
    with monkeypatch.context() as patch:
        patch.setitem(formats.FORMATS, ".npz", type(entry)("npz", full, entry.read))
        with pytest.raises(RunError, match="the disk is full") as caught:
            embed(pictures, image_model, tmp_path / "f.npz", **QUIET)
    lines(caught)
    assert not (tmp_path / "f.npz").exists()
    assert embed(pictures, image_model, tmp_path / "f.npz", **QUIET).computed == 0


def test_another_program_s_file_is_not_replaced(tmp_path, pictures, image_model):
    np.savez(tmp_path / "f.npz", mine=np.arange(3))
    with pytest.raises(RunError, match="without --overwrite"):
        embed(pictures, image_model, tmp_path / "f.npz", **QUIET)
    assert np.load(tmp_path / "f.npz")["mine"].tolist() == [0, 1, 2]


def test_an_attentive_probe_gives_what_its_query_reads(tmp_path, pictures, image_model):
    from openjepa.models.attentive import AttentiveClassifier

    torch.manual_seed(3)
    probe = AttentiveClassifier(16, 16, 5)
    torch.save({"classifiers": [probe.state_dict()]}, tmp_path / "probe.pt")
    words = {"tokens": "attentive", "probe": tmp_path / "probe.pt", **QUIET}
    store = open_store(embed(pictures, image_model, tmp_path / "f.npz", **words).path)
    tokens = openjepa.load(image_model).embed(store.paths[0], tokens="patch")
    np.testing.assert_allclose(store.vectors()[0], probe.pooler(tokens)[0, 0].detach(), atol=1e-5)
    torch.save({"classifiers": [AttentiveClassifier(32, 16, 5).state_dict()]}, tmp_path / "wide.pt")
    with pytest.raises(ConfigError, match="reads tokens of 32 numbers"):
        embed(pictures, image_model, tmp_path / "g.npz", tokens="attentive", probe=tmp_path / "wide.pt", **QUIET)


def test_memory_does_not_grow_with_the_data(tmp_path, image_model, monkeypatch):
    """What Python holds at its peak, for eight times the rows: parts and join stream."""
    import tracemalloc

    from PIL import Image

    monkeypatch.setattr(filling_room, "PART_ROWS", 32)
    picture = Image.fromarray(np.zeros((32, 32, 3), np.uint8))
    peaks = []
    for count in (64, 512):
        data = tmp_path / f"d{count}"
        data.mkdir()
        picture.save(data / "0000.png")
        for number in range(1, count):
            (data / f"{number:04d}.png").hardlink_to(data / "0000.png")
        words = {"tokens": "patch", "batch_size": 16, **QUIET}
        embed(data, image_model, tmp_path / "warm.npz", overwrite=True, **words)
        tracemalloc.start()
        embed(data, image_model, tmp_path / f"{count}.npz", **words)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1_000_000, peaks


@pytest.mark.parametrize("ending", ["parquet", "npz", "safetensors", "lance", "zarr"])
def test_a_damaged_or_foreign_store_is_one_line(tmp_path, pictures, image_model, ending):
    if ending in ("parquet", "lance", "zarr"):
        pytest.importorskip({"parquet": "pyarrow"}.get(ending, ending))
    with pytest.raises(DataError, match="no features at"):
        open_store(tmp_path / f"none.{ending}")
    place = embed(pictures, image_model, tmp_path / f"f.{ending}", **QUIET).path
    if place.is_dir():
        victim = max((item for item in place.rglob("*") if item.is_file()), key=lambda item: item.stat().st_size)
        victim = place / "zarr.json" if ending == "zarr" else victim
        victim.unlink()
    else:
        place.write_bytes(place.read_bytes()[: place.stat().st_size // 2])
    with pytest.raises(DataError, match="damaged|truncated|was not written by openjepa") as caught:
        open_store(place).vectors()
    lines(caught)
    other = tmp_path / f"other.{ending}"
    other.mkdir() if place.is_dir() else other.write_bytes(b"something else altogether")
    with pytest.raises(DataError) as caught:
        open_store(other)
    lines(caught)
