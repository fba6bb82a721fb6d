"""``make`` on a machine without a usable Python says so in one line and leaves nothing behind."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="needs make")


def run_make(tmp_path: Path, python: str | None, *words: str) -> subprocess.CompletedProcess[str]:
    """``make test`` in an empty folder whose PATH holds a few tools and, perhaps, one fake ``python3`` script."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "sed", "tail", "touch", "rm"):
        (tools / name).symlink_to(shutil.which(name) or name)
    if python is not None:
        (tools / "python3").write_text(f"#!/bin/sh\n{python}\n")
        (tools / "python3").chmod(0o755)
    folder = tmp_path / "an empty clone"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    assert MAKE is not None
    environment = {"PATH": str(tools), "HOME": str(tmp_path)}
    done = subprocess.run(
        [MAKE, "test", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert not (folder / ".venv").exists()
    return done


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr that is not make's own."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_an_old_python_is_named(tmp_path: Path) -> None:
    old = 'case "$*" in *--version*) echo Python 3.9.2;; *) exit 1;; esac'
    assert "needs Python 3.11 to 3.14, found: Python 3.9.2" in said(run_make(tmp_path, old))


@pytest.mark.parametrize("words", [(), ("PYTHON=/nowhere/python",)])
def test_no_python_is_said(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert "found: none" in said(run_make(tmp_path, None, *words))


def test_a_python_without_venv_names_the_debian_package(tmp_path: Path) -> None:
    bare = 'case "$*" in *ensurepip*) exit 1;; esac'
    assert "sudo apt install python3-venv" in said(run_make(tmp_path, bare))
