"""``model/``: what a run leaves for others: weights as safetensors, recipe as JSON, a card. Written and read here.

``model.safetensors`` is the encoder that is judged and deployed: the slow average where a method keeps one, else the
online encoder. ``predictor.safetensors`` and the other encoder (``online.safetensors``, or a frozen teacher's
``target.safetensors``) lie beside it, so that a model directory is enough to predict, look inside and train on.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from openjepa.config import load_recipe
from openjepa.config.schema import Recipe
from openjepa.errors import CheckpointError, ConfigError, nearest
from openjepa.hub.atomic import MANIFEST, clean_stale, read_manifest, verify_directory, write_directory
from openjepa.hub.card import ModelCard, render_card
from openjepa.hub.checkpoint import FORMAT as CHECKPOINT_FORMAT
from openjepa.hub.checkpoint import Checkpoint, list_checkpoints, load_last, read_checkpoint
from openjepa.hub.classifier import CLASSIFIER, ENTRY, pack_classifier, read_classifier
from openjepa.hub.provenance import Provenance, PublishedProbe, provenance_in
from openjepa.hub.strict import load_strict
from openjepa.hub.tensorfile import read_tensors
from openjepa.models import build_encoder, build_predictor
from openjepa.models.vit import VisionTransformer

FORMAT = "openjepa-model"
VERSION = 1
CONFIG, README = "config.json", "README.md"
Which = Literal["deployed", "target", "online"]
DEPLOYED = "model.safetensors"
_CONTENT = {
    DEPLOYED: "the encoder to use",
    "predictor.safetensors": "the predictor",
    "online.safetensors": "the online encoder",
    "target.safetensors": "the frozen teacher",
    CLASSIFIER: "the classifier on top",
    CONFIG: "recipe, architecture, scores",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model read from disk, in evaluation mode on the CPU.

    encoder: the one asked for by ``which``. target, online, predictor: where the source has them. config: the recipe it
    was made with. source: the directory it was read from. step: finished optimizer steps, where recorded. info: the
    rest of ``config.json`` (``card``, ``architecture``); empty for a checkpoint. provenance, probe: of imported weights,
    where they come from and the classifier that came along.
    """

    encoder: VisionTransformer
    target: VisionTransformer | None
    online: VisionTransformer | None
    predictor: nn.Module | None
    config: Recipe
    source: Path
    which: Which
    step: int | None
    info: Mapping[str, Any]
    provenance: Provenance | None = None
    probe: PublishedProbe | None = None


def split_parts(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The state dict of a method by part: ``{"target": {...}, "predictor": {...}, "online": {...}}``."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = tensor
    return parts


def save_model(
    path: str | Path,
    model: nn.Module | Mapping[str, Mapping[str, Tensor]],
    recipe: Recipe,
    card: ModelCard | None = None,
    *,
    replace: bool = True,
    probe: PublishedProbe | None = None,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model directory, atomically and with checksums.

    model: a method, a lone encoder (then it is the target), or state dicts by part as :func:`split_parts` makes them
    (what a sharded run has gathered). card: what the README says beside the recipe. probe: a linear classifier on top.
    about: further entries of ``config.json``.

    Raises:
        RunError: it cannot be written; a model directory that was there is untouched.
        CheckpointError: the encoder to deploy is not among the parts.
    """
    path, card = Path(path), card or ModelCard()
    parts, names = _parts(model, recipe), _files(recipe)
    if recipe.deployed not in parts:
        raise CheckpointError(
            f"cannot save '{path}': no {recipe.deployed} encoder among {', '.join(parts) or 'no parts'}"
        )
    architecture = _architecture(recipe, parts[recipe.deployed])
    files: dict[str, Any] = {names[name]: parts[name] for name in names if name in parts}
    files[CONFIG] = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": architecture,
        "card": _plain_card(card),
        "recipe": recipe.model_dump(mode="json"),
        **(about or {}),
    }
    if card.provenance is not None:
        files[CONFIG]["provenance"] = asdict(card.provenance)
    if probe is not None:
        files[CLASSIFIER], files[CONFIG][ENTRY] = pack_classifier(probe)
    files[README] = render_card(recipe, card, {name: _CONTENT[name] for name in files}, architecture)
    clean_stale(path.parent)
    return write_directory(
        path, files, replace=replace, about={"format": FORMAT, "version": VERSION}, unlisted=(README,)
    )


def load_model(path: str | Path, which: Which = "deployed", warn: Callable[[str], None] = _log.warning) -> LoadedModel:
    """Load a run directory (its ``model/``, else its newest whole checkpoint), a model directory or a checkpoint.

    which: the encoder to hand out; ``deployed`` is the slow average where there is one, else the online encoder.
    warn: receives the line that names a damaged checkpoint which was passed over.
    torch's random generator is left as it was.

    Raises:
        CheckpointError: none of these, damaged, or the weights do not match the recipe.
        ConfigError: ``which`` names an encoder the source does not have.
    """
    path = Path(path)
    if which not in get_args(Which):
        raise ConfigError(f"no encoder '{which}'{nearest(which, get_args(Which))}: choose deployed, target or online")
    if path.name == DEPLOYED and path.is_file():
        path = path.parent
    folder = path / "model" if (path / "model" / CONFIG).is_file() else path
    if (folder / CONFIG).is_file() and not _outdated(path, folder):
        parts, recipe, info = _read_model_directory(folder)
        probe = read_classifier(folder, info)
        step = info.get("card", {}).get("step")
        return assemble(parts, recipe, folder, which, step, info, provenance_in(info), probe)
    checkpoint = _find_checkpoint(path, warn)
    if "model" not in checkpoint.tensors:
        raise CheckpointError(f"'{checkpoint.path}' holds no model, only {', '.join(checkpoint.tensors) or 'states'}")
    parts = split_parts(checkpoint.tensors["model"])
    return assemble(parts, _recipe_of(checkpoint), checkpoint.path, which, checkpoint.step, {})


def _outdated(run: Path, folder: Path) -> bool:
    """Whether a run was resumed past the ``model/`` an earlier sitting left in it: then its checkpoints are newer."""
    saved = list_checkpoints(run / "checkpoints") if folder != run else []
    try:
        written = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["card"]["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # reading it in earnest says what is wrong
    return bool(saved) and written is not None and int(saved[-1].name.partition("-")[2]) > written


def _files(recipe: Recipe) -> dict[str, str]:
    """File of each part this recipe's method has."""
    names = {recipe.deployed: DEPLOYED, "predictor": "predictor.safetensors"}
    if recipe.target.averaged:
        names["online"] = "online.safetensors"
    elif recipe.target.kind == "frozen":
        names["target"] = "target.safetensors"
    return names


def _parts(model: nn.Module | Mapping[str, Mapping[str, Tensor]], recipe: Recipe) -> dict[str, dict[str, Tensor]]:
    """State dicts by part; a lone encoder is the one to deploy."""
    names = _files(recipe)
    if isinstance(model, Mapping):
        return {name: dict(part) for name, part in model.items() if name in names}
    found = {name: getattr(model, name) for name in names if isinstance(getattr(model, name, None), nn.Module)}
    if recipe.deployed not in found:
        found[recipe.deployed] = model
    return {name: part.state_dict() for name, part in found.items()}


def _architecture(recipe: Recipe, deployed: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a reader wants to know of the encoder without building it."""
    with torch.device("meta"):
        encoder = build_encoder(recipe.model, recipe.image_hw, recipe.data.channels, recipe.frames)
    return {
        "embed_dim": encoder.embed_dim,
        "depth": encoder.depth,
        "heads": encoder.heads,
        "patch_size": recipe.model.patch_size,
        "image_size": list(recipe.image_hw),
        "channels": recipe.data.channels,
        "parameters": sum(tensor.numel() for tensor in deployed.values()),
    }


def _plain_card(card: ModelCard) -> dict[str, Any]:
    """The card as JSON; a score that is not finite is null."""
    scores = {name: value if math.isfinite(value) else None for name, value in card.scores.items()}
    return {
        "step": card.step,
        "samples": card.samples,
        "data": card.data,
        "verdict": card.verdict,
        "scores": scores,
        "notes": list(card.notes),
    }


def _read_model_directory(folder: Path) -> tuple[dict[str, dict[str, Tensor]], Recipe, dict[str, Any]]:
    """Parts, recipe and the rest of config.json; checksums are verified where there is a manifest."""
    if (folder / MANIFEST).is_file():
        verify_directory(folder)
    try:
        info = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(info, dict) or info.get("format") != FORMAT:
            raise CheckpointError(f"'{folder / CONFIG}' is not an openjepa model: its format is not '{FORMAT}'")
        if info.get("version", 0) > VERSION:
            raise CheckpointError(
                f"'{folder}' was written by a newer openjepa (format {info['version']}, known {VERSION})"
            )
        recipe = Recipe.model_validate(info.pop("recipe", None))
    except (OSError, ValueError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error).splitlines()[0]
        raise CheckpointError(f"'{folder / CONFIG}' holds no recipe this version knows ({what})") from error
    names = _files(recipe)
    parts = {name: read_tensors(folder / file) for name, file in names.items() if (folder / file).is_file()}
    if recipe.deployed not in parts:
        raise CheckpointError(f"'{folder}' is incomplete: {DEPLOYED} is missing")
    return parts, recipe, info


def _find_checkpoint(path: Path, warn: Callable[[str], None]) -> Checkpoint:
    """The checkpoint ``path`` means: itself, the newest in it, or the newest of the run."""
    if (path / MANIFEST).is_file() and read_manifest(path).get("format") == CHECKPOINT_FORMAT:
        return read_checkpoint(path)
    stages = sorted(path.glob("stages/*/checkpoints"), key=lambda root: root.stat().st_mtime, reverse=True)
    for root in (path / "checkpoints", path, *stages):  # of a run in stages killed in its first one, what there is
        if list_checkpoints(root):
            return load_last(root, warn)
    if not path.exists():
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise CheckpointError(f"there is no '{path}'{nearest(path.name, siblings)}")
    raise CheckpointError(
        f"'{path}' is no run, model or checkpoint directory: it has no model/, checkpoints/ or {CONFIG}"
    )


def _recipe_of(checkpoint: Checkpoint) -> Recipe:
    """The recipe saved with a checkpoint, else the config.yaml of its run."""
    if checkpoint.recipe is not None:
        return checkpoint.recipe
    config = checkpoint.path.parent.parent / "config.yaml"
    if not config.is_file():
        raise CheckpointError(f"'{checkpoint.path}' holds no recipe and there is no '{config}'")
    return load_recipe(config)


def assemble(
    parts: Mapping[str, Mapping[str, Tensor]],
    recipe: Recipe,
    source: Path,
    which: Which,
    step: int | None = None,
    info: Mapping[str, Any] | None = None,
    provenance: Provenance | None = None,
    probe: PublishedProbe | None = None,
) -> LoadedModel:
    """Build the networks the parts are for, and load them strictly.

    parts: state dicts by our names (``target``, ``online``, ``predictor``). Others as in :class:`LoadedModel`.

    Raises:
        ConfigError: no encoder ``which`` among the parts. CheckpointError: a part does not match the recipe.
    """
    which = recipe.deployed if which == "deployed" else which
    if which not in parts:
        raise ConfigError(f"'{source}' has no {which} encoder: it holds {', '.join(parts)}")
    encoders: dict[str, VisionTransformer] = {}
    predictor = None
    with torch.random.fork_rng(devices=[]), _EmptyWeights():
        for name in ("target", "online"):
            if name in parts:
                encoders[name] = build_encoder(recipe.model, recipe.image_hw, recipe.data.channels, recipe.frames)
        if "predictor" in parts:
            predictor = build_predictor(recipe.predictor, encoders[which], recipe.model)
    for name, module in (*encoders.items(), ("predictor", predictor)):
        if module is not None:
            try:
                load_strict(module.eval(), parts[name])
            except CheckpointError as error:
                raise CheckpointError(f"'{source}' ({name}) does not match its recipe: {error}") from error
    return LoadedModel(
        encoders[which],
        encoders.get("target"),
        encoders.get("online"),
        predictor,
        recipe,
        source,
        which,
        step,
        info or {},
        provenance,
        probe,
    )


class _EmptyWeights(TorchFunctionMode):
    """Build networks whose weights are on the meta device (but mask tokens) and whose computed buffers are real.

    The file's tensors then take the places of the weights: nothing large is drawn or copied.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Send ``torch.empty``, which is where layers get their weights from, to the meta device."""
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
