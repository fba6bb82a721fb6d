"""What a latent prediction holds, as pictures: a decoder fitted on true target features, then fed predicted ones.

Both come from one space: targets as the objective compares them (layer-normed, centred, …), which is where predictions
live. The decoder is kept in the model directory (``decoder/``) and used again as long as the weights are the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openjepa.config.schema import Recipe
from openjepa.data import Normalise
from openjepa.data.splits import Splits
from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub.atomic import verify_directory, write_directory
from openjepa.hub.model_directory import LoadedModel
from openjepa.hub.tensorfile import read_tensors
from openjepa.objectives import transform_target
from openjepa.objectives.targets import STD_EPS
from openjepa.visualize import latent, samples
from openjepa.visualize.decoder import FeatureDecoder, Fidelity, fidelity, fit_decoder

FOLDER, FORMAT, VERSION = "decoder", "openjepa-decoder", 1
WEIGHTS, CONFIG = "decoder.safetensors", "config.json"
MOST_VALUES = 200_000_000  # numbers kept as features (0.8 GB): wide encoders on fine grids are fitted on fewer images
JUDGED = 500  # held-out images the figures rest on, at most
log = logging.getLogger(__name__)


@dataclass
class TargetSpace:
    """Target features as the objective compares them, the same for every batch.

    Training centres by the statistics of each batch; here they are those of all fitting images: ``centre (N, D)``,
    ``scale (D)``. length: mean length of a target token, which predictions get where the objective leaves theirs free.
    """

    how: str
    centre: Tensor | None = None
    scale: Tensor | None = None
    length: float | None = None

    def __call__(self, raw: Tensor) -> Tensor:
        """``(B, N, D)`` as the target network gives them → comparable with predictions, float32."""
        if self.how != "centred":
            return transform_target(raw, self.how)  # type: ignore[arg-type]
        normed = transform_target(raw, "layer_norm")
        assert self.centre is not None
        assert self.scale is not None
        return (normed - self.centre) / self.scale

    @classmethod
    def measure(cls, how: str, raw: Tensor, directions: bool) -> TargetSpace:
        """The space of ``raw (M, N, D)``; directions: the objective compares directions only."""
        space = cls(how)
        if how == "centred":
            normed = transform_target(raw, "layer_norm")
            space.centre = normed.mean(0)
            space.scale = (normed - space.centre).std((0, 1)) + STD_EPS
        space.length = float(space(raw[:256]).norm(dim=-1).mean()) if directions else None
        return space

    def fit_length(self, prediction: Tensor) -> Tensor:
        """Predictions at the length of targets, where only their direction was learned."""
        if self.length is None:
            return prediction
        return prediction / prediction.norm(dim=-1, keepdim=True).clamp_min(1e-6) * self.length


@dataclass
class Instrument:
    """A fitted decoder, the space it reads, and what it reached on held-out images.

    scores: ``targets`` (all patches), and where latents are predicted ``hidden targets`` and ``hidden predictions``
    (hidden patches only). about: how it was fitted.
    """

    decoder: FeatureDecoder
    space: TargetSpace
    scores: Mapping[str, Fidelity]
    about: dict[str, Any] = field(default_factory=dict)


class Subject:
    """A loaded model as the decoder sees it: raw target features, and predictions where it makes any."""

    def __init__(self, loaded: LoadedModel, device: str = "cpu") -> None:
        self.loaded, self.device = loaded, device
        self.recipe = loaded.config
        self.method = latent.rebuild(loaded).to(device) if self.recipe.method == "masked_latent" else None
        self.normalise: nn.Module = Normalise.for_data(self.recipe.data)
        loaded.encoder.to(device)

    @property
    def transform(self) -> str:
        """How targets are transformed before they are compared; features of other methods are taken as they are."""
        return self.recipe.target.transform if self.method is not None else "none"

    def raw(self, images: Tensor, size: int = 32) -> Tensor:
        """Features of raw images ``(M, C, H, W)`` as the target network gives them, ``(M, N, D)`` float32 on the CPU."""
        found = []
        for start in range(0, len(images), size):
            x = self.normalise(images[start : start + size]).to(self.device)
            with torch.no_grad():
                value = self.loaded.encoder.forward_features(x) if self.method is None else self.method.targets(x)[0]
            found.append(value.float().cpu())
        return torch.cat(found)

    def predict(self, images: Tensor, size: int = 32) -> tuple[Tensor, Tensor, Any]:
        """Predictions in place ``(M, N, D)``, where they are ``(M, N)``, and the masks they were asked under."""
        assert self.method is not None
        group = latent.draw_masks(self.recipe, len(images))
        values, places = [], []
        for start in range(0, len(images), size):
            part = group.rows(start, min(start + size, len(images)))
            x = self.normalise(images[start : start + size]).to(self.device)
            value, place = latent.predictions(self.method, x, part.to(self.device))
            values.append(value)
            places.append(place)
        seen = latent.cells(group.contexts[0], values[0].shape[1])
        return torch.cat(values), torch.cat(places) & (~seen if self.recipe.mask.kind != "none" else True), group


def instrument(
    loaded: LoadedModel,
    open_data: Callable[[], Splits],
    *,
    steps: int = 1000,
    most: int = 4000,
    seed: int = 0,
    device: str = "cpu",
    again: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> Instrument:
    """The decoder kept beside the model when it was fitted like this, else a new one, which is then kept.

    Args:
        open_data: training and held-out images. steps, most, seed: updates, images at most, seed of the fit.
        again: fit anew whatever is kept.

    Raises:
        DataError: too few images. RunError: the model directory cannot be written.
    """
    splits = open_data()
    wish = {"steps": steps, "images": most, "seed": seed, "data": splits.train.fingerprint()}
    kept = None if again else kept_instrument(loaded)
    if kept is not None and all(kept.about.get(key) == value for key, value in wish.items()):
        return kept
    made = _fit(Subject(loaded, device), splits, wish, on_step)
    _keep(loaded, made)
    return made


def plane(recipe: Recipe) -> tuple[int, int]:
    """The patch grid a decoder fills with pixels, (rows, columns).

    Raises:
        ConfigError: a recipe for clips, whose tokens stand for several frames.
    """
    if recipe.video:
        raise ConfigError(
            f"visualize decode is for image models, and recipe {recipe.name} takes clips: use pca or surprise"
        )
    return recipe.grid[0], recipe.grid[1]


def _fit(
    subject: Subject, splits: Splits, wish: dict[str, Any], on_step: Callable[[int, float], None] | None
) -> Instrument:
    """Fit on training images, judge on held-out ones."""
    recipe = subject.recipe
    encoder = subject.loaded.encoder
    grid = plane(recipe)
    values = math.prod(grid) * encoder.embed_dim
    chosen = samples.gather(splits.train, recipe.data, max(2, min(wish["images"], MOST_VALUES // values)))
    raw = subject.raw(chosen.images)
    space = TargetSpace.measure(subject.transform, raw, recipe.objective.kind in latent.DIRECTIONS)
    decoder = fit_decoder(
        space(raw), chosen.images, grid, recipe.model.patch_size, steps=wish["steps"], seed=wish["seed"],
        on_step=on_step,
    )  # fmt: skip
    held = samples.gather(splits.held_out, recipe.data, JUDGED)
    truth = space(subject.raw(held.images))
    scores = {"targets": fidelity(decoder, truth, held.images)}
    if subject.method is not None:
        guess, where, _ = subject.predict(held.images)
        scores["hidden targets"] = fidelity(decoder, truth, held.images, where)
        scores["hidden predictions"] = fidelity(decoder, space.fit_length(guess), held.images, where)
    about = {**wish, "source": splits.train.name, "fitted_on": len(chosen), "judged_on": len(held)}
    return Instrument(decoder, space, scores, about)


def _keep(loaded: LoadedModel, made: Instrument) -> Path:
    """Write the decoder into the model directory, whole or not at all."""
    tensors = {f"decoder.{name}": value for name, value in made.decoder.state_dict().items()}
    for name in ("centre", "scale"):
        value = getattr(made.space, name)
        if value is not None:
            tensors[f"space.{name}"] = value
    config = {
        "format": FORMAT,
        "version": VERSION,
        "encoder": weights_hash(loaded),
        "space": {"how": made.space.how, "length": made.space.length},
        "scores": {name: asdict(score) for name, score in made.scores.items()},
        "about": made.about,
    }
    files = {WEIGHTS: {k: v.contiguous() for k, v in tensors.items()}, CONFIG: config}
    return write_directory(loaded.source / FOLDER, files, replace=True, about={"format": FORMAT, "version": VERSION})


def kept_instrument(loaded: LoadedModel) -> Instrument | None:
    """The decoder kept with a model; None when there is none, it is damaged, or it belongs to other weights.

    Models of clips have none: see :func:`plane`.
    """
    folder = loaded.source / FOLDER
    if loaded.config.video or not (folder / CONFIG).is_file():
        return None
    try:
        verify_directory(folder)
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["version"] != VERSION or config["encoder"] != weights_hash(loaded):
            return None
        tensors = read_tensors(folder / WEIGHTS)
    except (CheckpointError, OSError, ValueError, KeyError) as error:
        log.warning("the decoder kept in '%s' is not used: %s", folder, error)
        return None
    recipe = loaded.config
    state = {name.partition(".")[2]: value for name, value in tensors.items() if name.startswith("decoder.")}
    decoder = FeatureDecoder(loaded.encoder.embed_dim, plane(recipe), recipe.model.patch_size, recipe.data.channels)
    decoder.load_state_dict(state)
    space = TargetSpace(
        config["space"]["how"], tensors.get("space.centre"), tensors.get("space.scale"), config["space"]["length"]
    )
    scores = {name: Fidelity(**value) for name, value in config["scores"].items()}
    return Instrument(decoder.eval(), space, scores, config["about"])


def weights_hash(loaded: LoadedModel) -> str:
    """SHA-256 of the weights that make and predict features: a decoder is good for these alone."""
    digest = hashlib.sha256()
    for part in (loaded.encoder, loaded.target, loaded.online, loaded.predictor):
        for name, tensor in ({} if part is None else part.state_dict()).items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
