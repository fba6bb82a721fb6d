"""Weights of one network made to fit another of the same width and depth: other image sizes, channels, frames, positions.

What differs in more than that is refused in one line that says what to set. What did and did not load is a table of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from openjepa.errors import CheckpointError
from openjepa.hub.inflate import flatten_time, inflate_channels, inflate_time
from openjepa.hub.strict import Entry, LoadReport, load_strict
from openjepa.models import NarrowPredictor, PixelDecoder
from openjepa.models.positions import Positions, resample_positions
from openjepa.models.transformer import LAYER_NORM_EPS
from openjepa.models.vit import VisionTransformer

PATCHES, TABLE, CLASS = "patch_embed.proj.weight", "pos_embed", "cls_token"
STEM = "patch_embed_img.proj."  # an image stem beside the tubelets (V-JEPA 2.1)
_FINAL = ("norm.", "norms_block.")
_MODALITY = ("img_mod_embed", "video_mod_embed")
Shape = tuple[int, int, int, float]  # width, depth, heads, MLP hidden width over width
_OPTIONAL = (CLASS, *_MODALITY)  # what one encoder has and another can do without


@dataclass(frozen=True)
class EncoderWeights:
    """An encoder to start from: its tensors by our names, and what tensors do not tell.

    heads: of attention. grid: token grid its positions are for. positions: of which kind. table: ``(N, D)`` positions that
    are added to tokens, computed or learned; None where they are rotary. eps: of its layer norms.
    """

    tensors: Mapping[str, Tensor]
    heads: int
    grid: tuple[int, ...]
    positions: Positions
    table: Tensor | None = None
    eps: float = LAYER_NORM_EPS

    @classmethod
    def of(cls, encoder: VisionTransformer) -> EncoderWeights:
        """Those of one of our encoders."""
        table = None if encoder.pos_embed is None else encoder.pos_embed.detach()[0]
        return cls(encoder.state_dict(), encoder.heads, encoder.grid, encoder.positions, table, _eps(encoder))


@dataclass(frozen=True)
class Fitted:
    """Tensors for every key of a network but the fresh ones. report: the table of keys. notes: what a user should know."""

    tensors: Mapping[str, Tensor]
    report: LoadReport
    notes: tuple[str, ...] = ()

    def load_into(self, module: nn.Module) -> None:
        """Load; keys the table calls missing keep the values they have."""
        load_strict(module, self.tensors, allow_missing=self.report.keys("missing"))

    @property
    def summary(self) -> str:
        """One line: how many tensors were taken as they are, changed, left fresh, left out."""
        entries = self.report.entries
        changed = [entry.key for entry in entries if entry.status == "loaded" and entry.expected != entry.found]
        loaded = len(self.report.keys("loaded"))
        parts = [f"{loaded} of {loaded + len(self.report.keys('missing'))} tensors"]
        for what, keys in (
            ("made to fit", changed),
            ("fresh", self.report.keys("missing")),
            ("left out", self.report.keys("dropped")),
        ):
            if keys:
                parts.append(f"{what}: {', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}")
        return "; ".join(parts)


@dataclass
class _Work:
    """Entries of the table as they are found."""

    module: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def take(self, key: str, mine: Tensor, given: Tensor, made: Tensor | None = None, note: str = "") -> None:
        """``given`` goes to ``key``, as ``made`` where it had to be changed."""
        value = given if made is None else made
        assert value.shape == mine.shape, (key, value.shape, mine.shape)
        self.tensors[key] = value
        self.entries.append(
            Entry(key, "loaded", tuple(mine.shape), tuple(given.shape), mine.dtype, given.dtype, note=note)
        )

    def fresh(self, key: str, mine: Tensor, note: str) -> None:
        """Nothing for ``key``: it keeps what it was drawn as."""
        self.entries.append(Entry(key, "missing", tuple(mine.shape), None, mine.dtype, allowed=True, note=note))

    def leave(self, key: str, given: Tensor, note: str) -> None:
        """Nobody wants ``key``."""
        self.entries.append(Entry(key, "dropped", None, tuple(given.shape), None, given.dtype, note=note))

    def done(self) -> Fitted:
        return Fitted(self.tensors, LoadReport(self.module, tuple(self.entries)), tuple(self.notes))


def fit_encoder(mine: VisionTransformer, given: EncoderWeights) -> Fitted:
    """Weights for ``mine`` (on any device, also meta) from those of another encoder of the same width, depth and heads.

    Patch projections are inflated to other channels and over the tubelet (:mod:`openjepa.hub.inflate`); learned positions
    interpolated bicubically, computed ones recomputed; a class token that only one side has is fresh or left out.

    Raises:
        CheckpointError: width, depth, heads, MLP, patches or tubelets differ, or tensors have no counterpart.
    """
    work, state, rest = _Work("encoder"), dict(mine.state_dict()), dict(given.tensors)
    _check_shape(mine, given)
    _take_final_norms(work, state, rest)
    for key, tensor in state.items():
        if key == PATCHES:
            made, how = _patches(rest.pop(key), tensor)
            work.take(key, tensor, given.tensors[key], made, how)
            work.notes += [f"patch projection: {how}"] if how else []
        elif key == TABLE:
            _take_table(work, tensor, mine, given, rest.pop(key, None))
        elif key in rest and rest[key].shape == tensor.shape:
            work.take(key, tensor, rest.pop(key))
        elif key.startswith(STEM):
            _take_stem(work, key, tensor, given, rest.pop(key, None))
        elif key in _OPTIONAL and key not in rest:
            work.fresh(key, tensor, "the weights have none")
            work.notes.append(f"{key} starts fresh: the weights have none")
        else:
            raise CheckpointError(_mismatch(key, tensor, rest.get(key)))
    _leave_rest(work, rest, mine)
    work.notes += _position_notes(mine, given)
    if _eps(mine) != given.eps:
        work.notes.append(f"layer norms have epsilon {_eps(mine):g}, the weights were trained with {given.eps:g}")
    return work.done()


def fit_predictor(mine: nn.Module, given: nn.Module) -> Fitted:
    """Weights for predictor ``mine`` from another of its kind, width, depth and heads.

    Mask tokens are repeated, or the first is taken, where their number differs. A decoder of pixels starts its last layer
    fresh where a patch has another number of values.

    Raises:
        CheckpointError: it is of another kind, or width, depth or heads differ.
    """
    if type(mine) is not type(given):
        raise CheckpointError(f"its predictor is a {type(given).__name__}, the recipe's a {type(mine).__name__}")
    work, state, rest = _Work("predictor"), dict(mine.state_dict()), dict(given.state_dict())
    if isinstance(mine, NarrowPredictor) and isinstance(given, NarrowPredictor):
        theirs, ours = _predictor_shape(given), _predictor_shape(mine)
        if given.levels != mine.levels:
            raise CheckpointError(
                f"its predictor reads {given.levels} levels of tokens, the recipe's {mine.levels}: start it fresh with "
                "--no-init-predictor"
            )
        if theirs != ours:
            sets = " ".join(_differing("predictor", theirs, ours))
            raise CheckpointError(
                f"its predictor is {_words(theirs)}, the recipe's {_words(ours)}: set {sets}, or start the predictor fresh "
                "with --no-init-predictor"
            )
        _take_mask_tokens(work, state, rest)
    for key, tensor in state.items():
        if key in rest and rest[key].shape == tensor.shape:
            work.take(key, tensor, rest.pop(key))
        elif isinstance(mine, PixelDecoder) and key.startswith("predictor_proj."):
            work.fresh(key, tensor, f"{tuple(rest.pop(key).shape)}: patches of other channels or frames")
            work.notes.append(f"{key} starts fresh: patches have another number of pixels")
        else:
            raise CheckpointError(_mismatch(key, tensor, rest.get(key), "--no-init-predictor starts it fresh"))
    if rest:
        raise CheckpointError(f"its predictor has {_some(rest)} the recipe's has no place for: --no-init-predictor")
    return work.done()


def _check_shape(mine: VisionTransformer, given: EncoderWeights) -> None:
    """Raise when width, depth, heads, MLP, patch or tubelet differ, with what to set."""
    if PATCHES not in given.tensors:
        raise CheckpointError(f"it has no '{PATCHES}': these are no weights of a vision transformer")
    theirs, ours = _encoder_shape(given.tensors, given.heads), _encoder_shape(mine.state_dict(), mine.heads)
    patches, tubelet = given.tensors[PATCHES], mine.tubelet_size
    told: list[str] = []
    sets = _differing("model", theirs, ours)
    if theirs != ours:
        told.append(f"its encoder is {_words(theirs)}, the recipe's {_words(ours)}")
    if patches.shape[-1] != mine.patch_size[0]:
        told.append(f"its patches are {patches.shape[-1]} px, the recipe's {mine.patch_size[0]} px")
        sets.append(f"model.patch_size={patches.shape[-1]}")
    if mine.video and patches.ndim == 5 and patches.shape[2] != tubelet:
        told.append(f"its tubelets are {patches.shape[2]} frames, the recipe's {tubelet}")
        sets.append(f"model.tubelet_size={patches.shape[2]}")
    if told:
        raise CheckpointError(f"{', '.join(told)}: set {' '.join(sets)}")


def _differing(part: str, theirs: Shape, ours: Shape) -> list[str]:
    """What to set of a recipe's ``part`` where shapes differ: those numbers that do."""
    pairs = zip(("dim", "depth", "heads", "mlp_ratio"), theirs, ours, strict=True)
    return [f"{part}.{key}={their:g}" for key, their, our in pairs if their != our]


def _encoder_shape(tensors: Mapping[str, Tensor], heads: int) -> Shape:
    """Width, depth, heads and MLP ratio, by the tensors."""
    width = tensors[PATCHES].shape[0]
    numbers = {int(key.split(".")[1]) for key in tensors if key.startswith("blocks.") and key.split(".")[1].isdecimal()}
    hidden = tensors.get("blocks.0.mlp.fc1.weight")
    return width, len(numbers), heads, 0.0 if hidden is None else round(hidden.shape[0] / width, 4)


def _predictor_shape(predictor: NarrowPredictor) -> Shape:
    """The same of a predictor."""
    width, blocks = predictor.predictor_norm.normalized_shape[0], predictor.predictor_blocks
    if not len(blocks):
        return width, 0, 1, 0.0
    heads = int(getattr(getattr(blocks[0], "attn"), "heads"))  # noqa: B009 (modules are not typed)
    return width, len(blocks), heads, round(blocks.state_dict()["0.mlp.fc1.weight"].shape[0] / width, 4)


def _eps(encoder: VisionTransformer) -> float:
    """Epsilon of the layer norms."""
    return next(part.eps for part in encoder.modules() if isinstance(part, nn.LayerNorm))


def _words(shape: Shape) -> str:
    width, depth, heads, ratio = shape
    return f"{width} wide, {depth} blocks, {heads} heads, MLP {ratio:g}×"


def _patches(theirs: Tensor, mine: Tensor) -> tuple[Tensor | None, str]:
    """The projection for other channels and frames, None where it fits as it is, and what was done."""
    done, made = [], theirs
    if mine.ndim == 5 and theirs.ndim == 4:
        made = inflate_time(made, mine.shape[2])
        done.append(f"image weights over {mine.shape[2]} frames, divided by {mine.shape[2]}")
    elif mine.ndim == 4 and theirs.ndim == 5:
        made = flatten_time(made)
        done.append(f"tubelet weights added up over {theirs.shape[2]} frames")
    if mine.shape[1] != theirs.shape[1]:
        made = inflate_channels(made, mine.shape[1])
        done.append(f"{theirs.shape[1]} channels to {mine.shape[1]}, cycled and rescaled")
    return (made if done else None), " and ".join(done)


def _take_table(
    work: _Work, tensor: Tensor, mine: VisionTransformer, given: EncoderWeights, theirs: Tensor | None
) -> None:
    """Learned positions: from learned ones or from a computed table, interpolated to the grid of ``mine``."""
    if given.table is None:
        work.fresh(TABLE, tensor, "the weights have rotary positions")
        return
    native, grid = (given.grid[-2], given.grid[-1]), (mine.grid[-2], mine.grid[-1])
    plane = (
        given.table if len(given.grid) == 2 else given.table[: native[0] * native[1]]
    )  # of a clip: its first tubelet
    source = plane[None] if theirs is None else theirs
    how = [] if theirs is not None else [f"started at the {given.positions.kind} table"]
    if native != grid:
        how.append(f"bicubic, {native[0]}×{native[1]} to {grid[0]}×{grid[1]}")
        work.notes.append(f"positions: {native[0]}×{native[1]} interpolated to {grid[0]}×{grid[1]}")
    work.take(TABLE, tensor, source, resample_positions(plane, native, grid)[None], ", ".join(how))


def _take_stem(work: _Work, key: str, tensor: Tensor, given: EncoderWeights, theirs: Tensor | None) -> None:
    """The image stem: another's with other channels, else what the tubelets' projection makes of a still clip."""
    source = given.tensors["patch_embed.proj." + key.removeprefix(STEM)] if theirs is None else theirs
    made, how = source, []
    if source.ndim == 5 and tensor.ndim == 5 and source.shape[2] != tensor.shape[2]:
        made, how = inflate_time(flatten_time(source), tensor.shape[2]), ["added up over the tubelet"]
    elif source.ndim == 4 and tensor.ndim == 5:
        made = inflate_time(source, tensor.shape[2])
    if made.ndim > 1 and made.shape[1] != tensor.shape[1]:
        made, how = inflate_channels(made, tensor.shape[1]), [*how, f"{made.shape[1]} channels to {tensor.shape[1]}"]
    if made.shape != tensor.shape:
        raise CheckpointError(_mismatch(key, tensor, theirs))
    work.take(key, tensor, source, made, ", ".join(["from the patch projection"] * (theirs is None) + how))


def _leave_rest(work: _Work, rest: Mapping[str, Tensor], mine: VisionTransformer) -> None:
    """Keys nobody took: those that may be left out are listed, others refused."""
    unknown: dict[str, Tensor] = {}
    for key, tensor in rest.items():
        if key == TABLE:
            work.leave(key, tensor, f"the recipe's positions are computed ({mine.positions.kind})")
        elif key in _OPTIONAL or key.startswith(STEM):
            work.leave(key, tensor, "the recipe's encoder has none")
            work.notes.append(f"{key} is left out: the recipe's encoder has none")
        else:
            unknown[key] = tensor
    if unknown:
        raise CheckpointError(f"it has {_some(unknown)} that the recipe's encoder has no place for")


def _position_notes(mine: VisionTransformer, given: EncoderWeights) -> list[str]:
    """What changes of the positions, in words."""
    ours, theirs = mine.positions, given.positions
    if ours.kind == "learned" != theirs.kind and given.table is not None:
        return [f"positions: the learned table starts as the {theirs.kind} one of the weights"]
    if ours.kind != theirs.kind and _is_computed(mine, given):
        return [] if mine.grid == given.grid else [f"positions: the weights' table is {ours.kind}, recomputed"]
    if ours.kind != theirs.kind:
        return [f"positions differ: the weights were trained with {theirs.kind}, the recipe has {ours.kind}"]
    read: dict[str, Callable[[Positions], object]] = {
        "sincos2d": lambda p: p.order,
        "sincos3d": lambda p: p.uniform_power,
        "rope3d": lambda p: p.pairing,
    }
    if ours.kind in read and read[ours.kind](ours) != read[ours.kind](theirs):
        return [f"positions differ: {ours.kind} of the weights in another layout ({theirs}, the recipe {ours})"]
    if ours.kind != "learned" and mine.grid != given.grid:
        shown = ["×".join(map(str, grid)) for grid in (given.grid, mine.grid)]
        return [f"positions: recomputed for the grid {shown[1]}, trained on {shown[0]}"]
    return []


def _is_computed(mine: VisionTransformer, given: EncoderWeights) -> bool:
    """Whether a table that could have been learned is the one the recipe computes (Hugging Face's I-JEPA keeps it so)."""
    if given.table is None or mine.positions.rotary or mine.positions.kind == "learned":
        return False
    table = mine.positions.native_table(mine.embed_dim, given.grid)
    return table.shape == given.table.shape and bool(torch.allclose(table, given.table.float().cpu(), atol=1e-4))


def _take_final_norms(work: _Work, state: dict[str, Tensor], rest: dict[str, Tensor]) -> None:
    """One final norm against one for each tapped level: the last is the final one, the others start as it."""
    mine = {key: key.rpartition(".")[2] for key in state if key.startswith(_FINAL)}
    given = {key: key.rpartition(".")[2] for key in rest if key.startswith(_FINAL)}
    same = {key.rpartition(".")[0] for key in mine} == {key.rpartition(".")[0] for key in given}
    if same or set(given.values()) != {"weight", "bias"}:
        return
    final = {name: key for key, name in given.items()}  # of several levels the last, as they are listed
    for key, name in mine.items():
        work.take(key, state.pop(key), rest[final[name]], None, f"from {final[name]}")
    for key in given:
        tensor = rest.pop(key)
        if key not in final.values():
            work.leave(key, tensor, "the recipe's encoder taps fewer levels")
    work.notes.append(f"final norms: {len(given) // 2} for {len(mine) // 2}")


def _take_mask_tokens(work: _Work, state: dict[str, Tensor], rest: dict[str, Tensor]) -> None:
    """One mask token for several, several for one, or other numbers; what is dealt with leaves both dictionaries."""
    mine = [key for key in state if key.startswith("mask_token")]
    given = [key for key in rest if key.startswith("mask_token")]
    if mine == given or not given:
        return
    for number, key in enumerate(mine):
        source = given[number % len(given)]
        work.take(key, state.pop(key), rest[source], None, f"from {source}")
    used = {given[number % len(given)] for number in range(len(mine))}
    for key in given:
        tensor = rest.pop(key)
        if key not in used:
            work.leave(key, tensor, "the recipe has fewer mask tokens")
    work.notes.append(f"mask tokens: {len(given)} for {len(mine)}")


def _mismatch(key: str, mine: Tensor, theirs: Tensor | None, hint: str = "") -> str:
    found = "is missing" if theirs is None else f"is {tuple(theirs.shape)}"
    return f"'{key}' {found}, the recipe needs {tuple(mine.shape)}{': ' + hint if hint else ''}"


def _some(tensors: Mapping[str, Tensor]) -> str:
    names = list(tensors)
    return f"{len(names)} tensors ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """A network without data, to see what fits: nothing large is drawn, torch's random state stays."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return build()
