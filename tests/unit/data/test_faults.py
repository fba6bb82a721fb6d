"""What happens to real users: rotten files, no permission, killed processes."""

import json
import os
import signal
import time

import pytest
import torch
from PIL import Image

from openjepa.config.schema import DataConfig
from openjepa.data import Loader, Sampler, TrainTransform, holdout, open_source, verify
from openjepa.errors import DataError

CONFIG = DataConfig(image_size=8)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def rotten(make_folder):
    """100 files, every twentieth corrupt in its own way."""
    root = make_folder(*(f"{c}/{k:02d}.png" for c in "ab" for k in range(50)))
    whole = (root / "a/01.png").read_bytes()
    for k, data in enumerate((b"", b"<html>", whole[:60], whole[:-30], b"\xff\xd8\xff\xe0" + bytes(50))):
        (root / "a" / f"{10 * k:02d}.png").write_bytes(data)
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_5_percent_corrupt_files_cost_nothing_else(rotten, workers):
    source = open_source(rotten)
    with Loader(source, TrainTransform(CONFIG), Sampler(100, 10, 0), workers=workers, seed=0, total_steps=30) as loader:
        batches = list(loader)
    assert len(batches) == 30
    assert all(len(b) == 10 for b in batches)
    assert set(loader.bad) == {f"a/{10 * k:02d}.png" for k in range(5)} == set(verify(rotten).bad)
    assert all("\n" not in reason for reason in loader.bad.values())


def test_one_more_corrupt_file_stops_the_run(rotten):
    (rotten / "b/00.png").write_bytes(b"x")
    loader = Loader(open_source(rotten), TrainTransform(CONFIG), Sampler(100, 10, 0), workers=0, seed=0, total_steps=30)
    with pytest.raises(DataError, match="6 of 100 files cannot be read"):
        list(loader)


def test_two_images_train_and_split(make_folder):
    source = open_source(make_folder("1.png", "2.png"))
    with Loader(source, TrainTransform(CONFIG), Sampler(2, 2, 0), workers=0, seed=0, total_steps=5) as loader:
        assert [sorted(b.ids.tolist()) for b in loader] == [[0, 1]] * 5
    assert len(holdout(source, 0.1, 0)[1]) == 1


def test_one_by_one_pixel_images_train(tmp_path):
    for k in range(4):
        Image.new("RGB", (1, 1), (k, k, k)).save(tmp_path / f"{k}.png")
    source = open_source(tmp_path)
    with Loader(source, TrainTransform(CONFIG), Sampler(4, 4, 0), workers=0, seed=0, total_steps=1) as loader:
        (batch,) = loader
    assert batch.inputs["image"].shape == (4, 3, 8, 8)
    assert torch.equal(batch.inputs["image"][:, 0, 0, 0].long(), batch.ids)


def as_nobody(task):
    """Run ``task`` in a forked process with an unprivileged uid (root may read everything); returns its JSON result.

    What it imports must have been imported here: nobody may read root's Python.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(write, json.dumps(task()).encode())
            os._exit(0)
        except BaseException as error:
            os.write(write, json.dumps(f"{type(error).__name__}: {error}").encode())
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as pipe:
        result = json.loads(pipe.read())
    assert os.waitpid(pid, 0)[1] == 0, result
    return result


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and setuid")
def test_unreadable_files_and_folders(make_folder, tmp_path):
    root = make_folder(*(f"ok/{k}.png" for k in range(30)), "secret.png", "closed/1.png")

    def look(folder):
        source = open_source(folder)
        with Loader(source, same, Sampler(len(source), 30, 0), workers=1, seed=0, total_steps=2) as loader:
            sizes = [len(batch) for batch in loader]
        found = verify(folder)
        return [sizes, loader.bad, found.ok, found.bad, found.unreadable, source.unreadable]

    def task():
        with pytest.raises(DataError) as caught:
            open_source(root / "closed")
        return [*look(root), str(caught.value)]

    look(root / "ok")  # imports
    for path in (root, *root.parents):
        if path.is_relative_to("/tmp/") and path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | 0o755)  # pytest makes its folders for this user only
    (root / "secret.png").chmod(0)
    (root / "closed").chmod(0)
    try:
        sizes, in_loader, ok, bad, unreadable, in_source, closed = as_nobody(task)
    finally:
        (root / "closed").chmod(0o755)
    assert sizes == [30, 30]
    assert ok == 30
    assert bad == {"secret.png": "permission denied"}
    assert in_loader in ({}, bad)  # one of 31 is left out of each epoch
    assert unreadable == in_source == {"closed": "permission denied"}
    assert closed.endswith("closed: permission denied")


class Slow:
    """A source that tells who reads it, slowly."""

    name, classes = "slow", None

    def __init__(self, folder):
        self.folder = folder

    def __len__(self):
        return 64

    def label(self, index):
        return -1

    def item_id(self, index):
        return str(index)

    def fingerprint(self):
        return ""

    def read(self, index):
        (self.folder / str(os.getpid())).touch()
        time.sleep(0.002)
        return torch.zeros(3, 8, 8, dtype=torch.uint8)


def same(image):
    return image


def wait(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_a_dead_worker_is_one_line_not_a_hang(tmp_path):
    loader = Loader(Slow(tmp_path), same, Sampler(64, 8, 0), workers=2, seed=0, cache="none", total_steps=10**6)
    stream = iter(loader)
    for _ in range(3):
        next(stream)
    os.kill(int(next(tmp_path.iterdir()).name), signal.SIGKILL)
    with pytest.raises(DataError, match="a data loader process died") as caught:
        sum(1 for _ in stream)
    assert "\n" not in str(caught.value)
    assert not any(alive(p.name) for p in tmp_path.iterdir())


def test_sigterm_to_the_group_leaves_the_workers_to_the_training_process(tmp_path):
    loader = Loader(Slow(tmp_path), same, Sampler(64, 8, 0), workers=2, seed=0, cache="none", total_steps=40)
    for step, _ in enumerate(loader):
        if step == 3:
            for file in tmp_path.iterdir():
                os.kill(int(file.name), signal.SIGTERM)
                os.kill(int(file.name), signal.SIGINT)
    assert step == 39


def test_kill_9_of_the_parent_leaves_no_orphans(tmp_path):
    pid = os.fork()  # torch is imported already
    if pid == 0:
        try:
            for _ in Loader(
                Slow(tmp_path), same, Sampler(64, 8, 0), workers=2, seed=0, cache="none", total_steps=10**6
            ):
                time.sleep(0.01)
        finally:
            os._exit(1)
    assert wait(lambda: len(list(tmp_path.iterdir())) >= 2, 30)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    workers = [p.name for p in tmp_path.iterdir()]
    assert wait(lambda: not any(alive(w) for w in workers), 20), "loader processes outlive their parent"
