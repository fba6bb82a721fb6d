"""What lies in a Hugging Face directory of a system we have: configuration, weights, processor, licence. No ``transformers``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor, nn

from openjepa.config.schema import Recipe
from openjepa.errors import CheckpointError, OpenJepaError, nearest
from openjepa.hub.model_directory import LoadedModel, Which, assemble
from openjepa.hub.provenance import Provenance, PublishedProbe
from openjepa.hub.strict import load_strict
from openjepa.hub.tensorfile import read_tensors
from openjepa.models.linear_head import LinearHead, Pooling

CONFIG = "config.json"
PROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")
OURS = "openjepa"  # our entry in config.json: what transformers has no words for
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def ratio_of(hidden: int, dim: int) -> float:
    """MLP width over width such that multiplying again gives ``hidden`` exactly."""
    return next(ratio for ratio in (hidden / dim, (hidden + 0.5) / dim) if int(dim * ratio) == hidden)


@dataclass(frozen=True)
class HfDirectory:
    """A directory as it lies on disk.

    config: ``config.json``. tensors: all weights, by the file's names. processor: settings of the image or video processor,
    empty where there is none. licence: of the model card beside it.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    processor: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None

    def get(self, key: str, default: Any) -> Any:
        """An entry of the configuration; ``default``, what transformers takes then, where it is absent or null."""
        value = self.config.get(key)
        return default if value is None else value

    def need(self, wanted: Mapping[str, Any]) -> None:
        """Raise CheckpointError, in one line, for the first entry that our encoder cannot have."""
        for key, value in wanted.items():
            if self.get(key, value) != value:
                raise CheckpointError(f"'{self.path}': {key} is {self.config[key]!r}, and our encoder has {value!r}")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of a classifier's classes, in the order of its logits."""
        labels = self.get("id2label", {})
        return tuple(str(labels[key]) for key in sorted(labels, key=int))

    @property
    def image_size(self) -> tuple[int, int]:
        """Pixels, height and width."""
        size = self.get("image_size", 224)
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))

    @property
    def patch_size(self) -> int:
        """Pixels of a patch's side. Raises CheckpointError where patches are not square."""
        size = self.get("patch_size", 16)
        if not isinstance(size, int) and len(set(size)) > 1:
            raise CheckpointError(f"'{self.path}': patches of {'×'.join(map(str, size))} pixels; ours are square")
        return size if isinstance(size, int) else int(size[0])

    def ratio(self, hidden: str, width: str, usual: tuple[int, int]) -> float:
        """MLP width over width, such that our ``int(width · ratio)`` is the width again."""
        return ratio_of(int(self.get(hidden, usual[0])), int(self.get(width, usual[1])))


@dataclass(frozen=True)
class Draft:
    """A directory in our words, before anything is built: recipe, tensors by part and name, what a user must know."""

    layout: str
    recipe: Recipe
    parts: dict[str, dict[str, Tensor]]
    notes: tuple[str, ...] = ()
    probe: PublishedProbe | None = None


def read_hf_directory(folder: str | Path, kind: str, what: str) -> HfDirectory:
    """Read ``config.json`` and all weights beside it (one file, or the parts an index names).

    kind: the ``model_type`` it must have. what: its name in messages.

    Raises:
        CheckpointError: a file is missing or damaged, or it is something else.
    """
    folder = Path(folder)
    config = read_config(folder)
    found = config.get("model_type")
    if found != kind:
        raise CheckpointError(f"'{folder}' is no {what}: its config.json says model_type {found!r}, not {kind!r}")
    return beside(folder, config, read_weights(folder))


def beside(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> HfDirectory:
    """A directory (or a lone file) whose configuration and weights are read already."""
    if not folder.is_dir():
        return HfDirectory(folder, config, tensors)
    return HfDirectory(folder, config, tensors, _processor(folder), licence_of(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json``. Raises CheckpointError where there is none."""
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{folder}' has no config.json that can be read ({error})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"'{folder / CONFIG}' is no table")
    return found


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors, of one file or of the parts an index names. Raises CheckpointError where there are none."""
    for name in _WEIGHTS:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return dict(read_tensors(folder / name))
        if index.is_file():
            try:
                parts = sorted(
                    {Path(part).name for part in json.loads(index.read_text("utf-8"))["weight_map"].values()}
                )
            except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
                raise CheckpointError(f"'{index}' cannot be read ({error})") from error
            return {key: value for part in parts for key, value in read_tensors(folder / part).items()}
    raise CheckpointError(f"'{folder}' has no {' or '.join(_WEIGHTS)}")


@contextmanager
def describing(directory: HfDirectory, what: str) -> Iterator[None]:
    """Whatever of a configuration cannot be built is one line about the directory. Raises CheckpointError."""
    try:
        yield
    except OpenJepaError:
        raise
    except (ValidationError, TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(f"'{directory.path}': config.json describes no {what} we can build ({said})") from error


def finish(directory: HfDirectory, draft: Draft, which: Which) -> LoadedModel:
    """Build the networks and load them strictly. A file has one encoder: it stands for online and target alike.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape. ConfigError: there is no encoder ``which``.
    """
    parts = dict(draft.parts)
    if draft.recipe.target.averaged:
        parts["target"] = parts["online"]
    stray = [key for part in set(parts) - {"online", "target", "predictor"} for key in parts[part]]
    if stray:
        known = parts["online"]
        raise CheckpointError(
            f"'{directory.path}' holds {len(stray)} tensors its kind does not have ({', '.join(stray[:3])})"
            f"{nearest(stray[0], known)}"
        )
    notes = draft.notes
    if draft.recipe.target.averaged:
        notes = (*notes, "the file holds one encoder, which stands for the online encoder and its slow average alike")
    provenance = Provenance(str(directory.path), draft.layout, "encoder", directory.licence, notes=notes)
    return assemble(parts, draft.recipe, directory.path, which, provenance=provenance, probe=draft.probe)


def set_epsilon(loaded: LoadedModel, norm: str, eps: float) -> LoadedModel:
    """The model with another epsilon in one norm of its predictor, where transformers has one of its own there."""
    if loaded.predictor is not None:
        module = loaded.predictor.get_submodule(norm)
        assert isinstance(module, nn.LayerNorm)
        module.eps = eps
    return loaded


def linear_probe(directory: HfDirectory, weights: Mapping[str, Tensor], pooling: Pooling = "mean") -> PublishedProbe:
    """A linear classifier that lies in the same file, on the mean of the patch tokens or on the class token.

    Raises:
        CheckpointError: weight or bias is missing.
    """
    shape = weights["weight"].shape if "weight" in weights else ()
    if len(shape) != 2:
        raise CheckpointError(f"'{directory.path}' has a classifier without weights: it is damaged or cut")
    with torch.device("meta"):  # the file's tensors take the places of the weights
        head = LinearHead(shape[1], shape[0], pooling)
    load_strict(head, weights)
    return PublishedProbe(head.eval(), directory.classes, str(directory.path))


def licence_of(folder: Path) -> str | None:
    """The licence in the front matter of the model's card, where there is one."""
    try:
        parts = (folder / "README.md").read_text(encoding="utf-8").split("---")
        about = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0].strip() else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return str(about["license"]) if isinstance(about, dict) and "license" in about else None


def _processor(folder: Path) -> dict[str, Any]:
    """Settings of the processor; empty where there is none. Raises CheckpointError for a damaged one."""
    for name in PROCESSORS:
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise CheckpointError(f"'{folder}': {name} cannot be read ({error})") from error
        return found if isinstance(found, dict) else {}
    return {}
