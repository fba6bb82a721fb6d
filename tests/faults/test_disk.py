"""A disk that fills up while a run saves: one line, and the older checkpoint is whole and can be resumed."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tiny_runs import Generated, differences, in_child, saved_state, tiny_recipe

from openjepa.errors import RunError
from openjepa.training import Event, train

RECIPE = tiny_recipe("train.length=8 steps", "checkpoint.every=2 steps")


def check_resumable(tmp_path: Path, run: Path) -> None:
    """The run goes on from what was saved, to the same end as a run that was never disturbed."""
    train(RECIPE, Generated(), out=tmp_path / "whole", console=False)
    train(RECIPE, Generated(), out=run, resume=True, console=False)
    assert differences(tmp_path / "whole", run) == []


def test_no_space_left_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``fsync`` reports the full disk in the middle of the third checkpoint."""
    run = tmp_path / "run"
    fsync, full = os.fsync, [False]

    def refuse(handle: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    def fill(event: Event) -> None:
        full[0] = full[0] or (event.kind == "row" and event.data["step"] == 6)

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(RunError, match=r"cannot save '.*step-00000006': the disk is full .*untouched") as caught:
        train(RECIPE, Generated(), out=run, console=False, on_event=fill)
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "last.json",
        "step-00000002",
        "step-00000004",
    ]
    assert saved_state(run)[1]["step"] == 4
    check_resumable(tmp_path, run)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_real_limit_in_the_middle_of_a_file(tmp_path: Path) -> None:
    """The system itself refuses to write on in the middle of a checkpoint's weights (file size limit)."""
    run = tmp_path / "run"

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

        def limit(event: Event) -> None:
            if event.kind == "step" and event.data["step"] == 6:
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

        try:
            train(RECIPE, Generated(), out=run, console=False, on_event=limit)
        except RunError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            (tmp_path / "error.txt").write_text(str(error))

    assert os.waitstatus_to_exitcode(os.waitpid(in_child(limited), 0)[1]) == 0
    message = (tmp_path / "error.txt").read_text()
    assert "step-00000006': the file is larger than this process may write" in message
    assert "\n" not in message
    check_resumable(tmp_path, run)


def test_a_real_small_disk(tmp_path: Path) -> None:
    """A file system of 4 MB, filled by its neighbours while the run goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("needs the right to mount a small file system")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:

        def fill(event: Event) -> None:
            if event.kind == "step" and event.data["step"] == 5:
                free = shutil.disk_usage(disk).free
                (disk / "neighbour").write_bytes(b"x" * max(free - 30_000, 0))

        with pytest.raises(RunError, match="the disk is full"):
            train(RECIPE, Generated(), out=disk / "run", console=False, on_event=fill)
        assert saved_state(disk / "run")[1]["step"] == 4
        (disk / "neighbour").unlink()
        check_resumable(tmp_path, disk / "run")
    finally:
        subprocess.run(["umount", str(disk)], check=False)
