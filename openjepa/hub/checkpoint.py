"""Run checkpoints: ``checkpoints/step-00001000/`` and ``checkpoints/last.json``.

A checkpoint is a directory of safetensors and JSON files, without pickle, that exists whole or not at all
(:mod:`openjepa.hub.atomic`). Its manifest holds checksums: a damaged checkpoint is never loaded, the reader goes back
to the one before and says so.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from openjepa.config.schema import Recipe
from openjepa.errors import CheckpointError
from openjepa.hub.atomic import (
    clean_stale,
    read_manifest,
    remove_directory,
    verify_directory,
    write_directory,
    write_file,
)
from openjepa.hub.state import pack_state, unpack_state
from openjepa.hub.tensorfile import read_safetensors

FORMAT = "openjepa-checkpoint"
VERSION = 1
LAST = "last.json"
RECIPE = "recipe.json"
_NAME = re.compile(r"step-(\d{8,})")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint in memory (CPU).

    step: finished optimizer steps. tensors: part → flat dict of tensors (``"model"``, ...). states: part → the tree
    that was saved (``"optimizer"``, ``"loop"``, ...). recipe: what the run was told, where it was saved with it.
    """

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    states: dict[str, Any]
    recipe: Recipe | None


def checkpoint_name(step: int) -> str:
    """Directory name of a step: ``step-00001000``."""
    return f"step-{step:08d}"


def save_checkpoint(
    root: str | Path,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    states: Mapping[str, Any],
    recipe: Recipe | None = None,
    keep: int | None = None,
    keep_every: int | None = None,
) -> Path:
    """Write ``root/step-…``, point ``root/last.json`` at it, then forget old ones (:func:`prune`, if ``keep`` is given).

    tensors: part → flat dict (``{"model": method.state_dict()}``); tied tensors are stored once. states: part → any
    tree of plain values and tensors (``{"optimizer": optimizer.state_dict(), "loop": {...}}``). A checkpoint of the
    same step is replaced. A kill at any moment leaves the previous checkpoint valid.

    Raises:
        RunError: it cannot be written (full disk, permissions); the previous checkpoint stays.
        CheckpointError: a state holds something that is no plain data.
    """
    root = Path(root)
    clean_stale(root)
    files: dict[str, Any] = {f"{name}.safetensors": dict(part) for name, part in tensors.items()}
    for name, tree in states.items():
        assert name not in tensors, name
        files[f"{name}.json"], found = pack_state(tree)
        if found:
            files[f"{name}.safetensors"] = found
    if recipe is not None:
        files[RECIPE] = recipe.model_dump(mode="json")
    about = {"format": FORMAT, "version": VERSION, "step": step, "tensors": list(tensors), "states": list(states)}
    path = write_directory(root / checkpoint_name(step), files, replace=True, about=about)
    write_file(root / LAST, {"step": step, "path": path.name})
    if keep is not None:
        prune(root, keep, keep_every)
    return path


def list_checkpoints(root: str | Path) -> list[Path]:
    """Checkpoint directories below ``root``, oldest first. Unfinished ones never have such a name."""
    root = Path(root)
    found = [path for path in root.iterdir() if _step(path) is not None] if root.is_dir() else []
    return sorted(found, key=lambda path: _step(path) or 0)


def read_last(root: str | Path) -> Path | None:
    """The checkpoint ``last.json`` points at; None when there is no pointer or it cannot be read."""
    try:
        name = json.loads((Path(root) / LAST).read_text(encoding="utf-8"))["path"]
        return Path(root) / Path(name).name
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Verify the checksums of one checkpoint and read it.

    Raises:
        CheckpointError: missing, damaged (which file, how), of another format or a newer version.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"there is no checkpoint '{path}'")
    about = read_manifest(path)
    if about.get("format") != FORMAT:
        raise CheckpointError(f"'{path}' is no checkpoint of a run (its format is {about.get('format')!r})")
    if about.get("version", 0) > VERSION:
        raise CheckpointError(f"'{path}' was written by a newer openjepa (format {about['version']}, known {VERSION})")
    verify_directory(path)
    tensors = {name: read_safetensors(path / f"{name}.safetensors", copy=True)[0] for name in about["tensors"]}
    states = {name: _read_state(path, name) for name in about["states"]}
    return Checkpoint(path, about["step"], tensors, states, read_recipe(path / RECIPE))


def load_last(root: str | Path, warn: Callable[[str], None] = _log.warning) -> Checkpoint:
    """The newest checkpoint of ``root`` that is whole. Every damaged one on the way is named through ``warn``.

    The newest directory wins over ``last.json``: a kill between the two leaves the pointer one behind.

    Raises:
        CheckpointError: there is none, or all are damaged.
    """
    found = list_checkpoints(root)[::-1]
    last = read_last(root)
    if last is not None and not last.exists():
        warn(f"{Path(root) / LAST} points at '{last.name}', which is gone")
    for place, path in enumerate(found):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            before = f"going back to '{found[place + 1].name}'" if place + 1 < len(found) else "there is no older one"
            warn(f"{error}; {before}")
    if not found:
        raise CheckpointError(f"'{root}' holds no checkpoint")
    raise CheckpointError(f"all {len(found)} checkpoints in '{root}' are damaged, the newest is '{found[0].name}'")


def prune(root: str | Path, keep: int, keep_every: int | None = None) -> list[Path]:
    """Remove checkpoints, oldest first, and return the removed paths.

    Kept: the newest ``keep``, every multiple of ``keep_every`` steps, and always the one ``last.json`` points at. Each
    removal is one rename, so that a kill never leaves half a checkpoint under its name.
    """
    found = list_checkpoints(root)
    spared = {*found[-max(keep, 1) :], read_last(root)}
    removed = []
    for path in found:
        step = _step(path) or 0
        if path in spared or (keep_every and step % keep_every == 0):
            continue
        remove_directory(path)
        removed.append(path)
    return removed


def discard_after(root: str | Path, step: int) -> list[Path]:
    """Remove every checkpoint newer than ``step`` (the run was rolled back), point ``last.json`` at what is left."""
    found = list_checkpoints(root)
    older = [path for path in found if (_step(path) or 0) <= step]
    if older:
        write_file(Path(root) / LAST, {"step": _step(older[-1]), "path": older[-1].name})
    removed = [path for path in found if path not in older]
    for path in reversed(removed):
        remove_directory(path)
    return removed


def read_recipe(path: Path) -> Recipe | None:
    """The recipe stored as JSON in ``path``, None when there is no such file. Raises CheckpointError if it is none."""
    try:
        return Recipe.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(str(part) for part in problem["loc"])
        raise CheckpointError(f"'{path}' holds no recipe this version knows: {where} {problem['msg']}") from error


def _read_state(path: Path, name: str) -> Any:
    """One packed state: its JSON, and its tensors where it had any."""
    try:
        packed = json.loads((path / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' is damaged: {name}.json cannot be read ({error})") from error
    file = path / f"{name}.safetensors"
    return unpack_state(packed, read_safetensors(file, copy=True)[0] if file.exists() else {})


def _step(path: Path) -> int | None:
    """The step in a checkpoint's name, None for anything else."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match and path.is_dir() else None
