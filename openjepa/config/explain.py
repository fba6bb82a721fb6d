"""Validation that says everything that is wrong with a recipe in one line, each time with the nearest valid choice."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from openjepa.config.describe import KeyInfo, describe_schema, is_section, kinds, list_element, optional_section
from openjepa.config.overrides import CHOICES
from openjepa.config.schema import Recipe
from openjepa.config.text import one_line, shown
from openjepa.errors import nearest

# What other libraries call our keys; offered as suggestions, never accepted.
SYNONYMS = {
    "learning_rate": "optim.lr", "base_lr": "optim.lr", "wd": "optim.weight_decay", "warmup_epochs": "optim.warmup",
    "warmup_steps": "optim.warmup", "grad_clip": "optim.clip", "epochs": "train.length", "max_epochs": "train.length",
    "steps": "train.length", "max_steps": "train.length", "amp": "train.precision", "dtype": "train.precision",
    "num_workers": "data.workers", "img_size": "data.image_size", "crop_size": "data.image_size",
    "resolution": "data.image_size", "in_chans": "data.channels", "horizontal_flip": "data.augment.flip",
    "ema": "target.momentum", "loss": "objective.kind", "masker": "mask.kind", "embed_dim": "model.dim",
    "num_frames": "data.clip.frames", "frames_per_clip": "data.clip.frames", "frame_step": "data.clip.stride",
    "sampling_rate": "data.clip.stride", "num_mask_tokens": "predictor.mask_tokens", "use_rope": "model.positions",
    "num_heads": "model.heads", "pred_depth": "predictor.depth", "pred_emb_dim": "predictor.dim",
}  # fmt: skip
_LONGEST = 60
_ABSENT = object()


@dataclass(frozen=True)
class Place:
    """Where in a recipe an error is: the path as shown, as looked up in the schema, and the part that holds it."""

    shown: str
    lookup: str
    holder: type[BaseModel] | None
    path: tuple[str | int, ...]
    known: bool


def short(value: Any) -> str:
    """:func:`shown`, cut to what fits into a line."""
    text = one_line(shown(value))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def locate(loc: Sequence[str | int]) -> Place:
    """Turn a pydantic location, which also names union members, into a recipe path."""
    text, lookup, model, path = "", "", Recipe, []  # type: str, str, type[BaseModel] | None, list[str | int]
    choices: dict[str, type[BaseModel]] = {}
    element: type[BaseModel] | None = None
    holder: type[BaseModel] | None = Recipe
    for part in loc:
        if isinstance(part, str) and part in choices:
            model, choices = choices[part], {}
        elif isinstance(part, int) and element is not None:
            text, lookup, model, element = f"{text}[{part}]", f"{lookup}[]", element, None
            path.append(part)
        elif model is None:
            break
        else:
            holder = model
            text, lookup = (f"{text}.{part}", f"{lookup}.{part}") if text else (str(part), str(part))
            path.append(part)
            field = model.model_fields.get(str(part))
            if field is None:
                return Place(text, lookup, holder, tuple(path), known=False)
            choices, element = kinds(field), list_element(field.annotation)
            annotation = field.annotation
            model = (
                annotation if isinstance(annotation, type) and is_section(annotation) else optional_section(annotation)
            )
    return Place(text, lookup, holder, tuple(path), known=True)


def find_key(lookup: str, raw: Any = None) -> KeyInfo | None:
    """The schema's entry for a path; where it depends on a ``kind``, the one ``raw`` has chosen."""
    found = [info for info in describe_schema() if info.key == lookup]
    if len(found) > 1 and isinstance(raw, dict):
        chosen = [i for i in found if i.when and i.when == _choice(i.when.partition("=")[0], raw)]
        found = chosen or found
    return found[0] if found else None


def _choice(kind_key: str, raw: dict[str, Any]) -> str:
    """``mask.kind=random``: the kind ``raw`` has chosen for the section, or its default."""
    name = kind_key.partition(".")[0]
    section = raw.get(name)
    default = CHOICES[name].kind if name in CHOICES else None
    return f"{kind_key}={section.get('kind', default) if isinstance(section, dict) else default}"


def suggest_keys(key: str, raw: dict[str, Any] | None = None) -> list[str]:
    """Up to three valid full keys nearest to a wrong one: same name elsewhere, typing slips, other libraries' names."""
    usable = [i for i in describe_schema() if not i.when or i.when == _choice(i.when.partition("=")[0], raw or {})]
    head, _, leaf = key.rpartition(".")
    leaf = leaf.lower().replace("-", "_")
    siblings = {i.leaf: i.key for i in usable if i.key.rpartition(".")[0] == head}
    typed = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.75)
    same = [i.key for i in usable if i.leaf == leaf and "[]" not in i.key]
    sections = {i.key for i in usable if i.section}
    if typed and not (same and siblings[typed[0]] in sections):  # 'data.flip' means no 'data.clip'
        return [siblings[typed[0]]]
    if same:
        return sorted(same, key=lambda k: -difflib.SequenceMatcher(None, k, key).ratio())[:3]
    if leaf in SYNONYMS:
        return [SYNONYMS[leaf]]
    typo_in_section = head not in sections and "[]" not in head
    near = difflib.get_close_matches(key.lower(), [i.key for i in usable], n=1, cutoff=0.8) if typo_in_section else []
    leaves = {i.leaf: i.key for i in reversed(usable)}
    near = near or [leaves[x] for x in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.7)]
    loose = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.6)
    return near or [siblings[x] for x in loose]


def _unknown(place: Place, raw: dict[str, Any]) -> str:
    others = [i for i in describe_schema() if i.key == place.lookup and i.when]
    if others:
        section = place.lookup.partition(".")[0]
        given = f"{section}.kind is '{raw[section]['kind']}'" if isinstance(raw.get(section), dict) else ""
        return f"unknown key '{place.shown}' ({given}; this key belongs to {others[0].when})"
    found = suggest_keys(place.lookup, raw)
    hint = f" (did you mean {' or '.join(repr(k) for k in found)}?)" if found else ""
    return f"unknown key '{place.shown}'{hint}"


def _read(raw: Any, path: Sequence[str | int]) -> Any:
    """The value at a path, or None."""
    for part in path:
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            return None
    return raw


def _sentence(error: Any, place: Place, raw: dict[str, Any]) -> str:
    """One mistake in words."""
    kind, value = error["type"], _read(raw, place.path)
    if not place.path:
        return error["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden" or not place.known:
        return _unknown(place, raw)
    if kind.startswith("union_tag"):
        names = list(CHOICES_KINDS[place.lookup])
        got = value.get("kind") if isinstance(value, dict) else value
        return f"{place.shown}.kind: {short(got)} is not one of {', '.join(names)}{nearest(got, names)}"
    info = find_key(place.lookup, raw)
    assert info is not None, place
    if kind == "missing" and value is None:
        return f"'{place.shown}' is missing (it needs {info.type})"
    if info.section:
        keys = [i.key for i in describe_schema() if i.key.rpartition(".")[0] == place.lookup][:3]
        hint = (
            f" (did you mean {place.shown}.kind={value}?)" if str(value) in CHOICES_KINDS.get(place.lookup, ()) else ""
        )
        none = " or none" if info.nullable else ""
        return f"{place.shown}: {short(value)} is not a section of keys such as {', '.join(keys)}{none}{hint}"
    said = error["msg"].removeprefix("Value error, ")
    if kind == "value_error" and "duration" not in info.type:
        return f"{place.shown}: {short(value)} {said}"
    hint = nearest(value, info.allowed) if isinstance(value, str) and info.allowed else ""
    return f"{place.shown}: {short(value)} is not {info.type}{hint}"


CHOICES_KINDS = {name: kinds(Recipe.model_fields[name]) for name in CHOICES}


def _holders(raw: Any, path: Sequence[str]) -> list[dict[str, Any]]:
    """The mappings a path of the schema leads to; ``streams[]`` leads to every entry of a list."""
    found = [raw]
    for part in path:
        values = [node.get(part.removesuffix("[]")) for node in found if isinstance(node, dict)]
        found = [item for v in values if isinstance(v, list) for item in v] if part.endswith("[]") else values
    return [node for node in found if isinstance(node, dict)]


def normalise(raw: dict[str, Any]) -> dict[str, Any]:
    """A copy with empty sections dropped, a missing ``kind`` filled with its default and the word none read as none."""
    out = copy.deepcopy(raw)
    for info in describe_schema():
        *path, last = info.key.split(".")
        for holder in _holders(out, path):
            value = holder.get(last, _ABSENT)
            if info.nullable and isinstance(value, str) and value.lower() in ("none", "null"):
                holder[last] = None
            elif info.section and value is None and not info.nullable:
                del holder[last]
    for name, default in CHOICES.items():
        if isinstance(out.get(name), dict):
            out[name].setdefault("kind", default.kind)
    return out


def _booleans(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of all booleans: pydantic would read them as 0 and 1 where a number is wanted."""
    if isinstance(value, bool):
        yield path
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _booleans(item, (*path, key))


def _boolean_mistakes(raw: dict[str, Any]) -> dict[tuple[str | int, ...], str]:
    out = {}
    for path in _booleans(raw):
        place = locate(path)
        info = find_key(place.lookup, raw) if place.known else None
        numeric = info is not None and not info.section and ("number" in info.type or "integer" in info.type)
        if numeric and info is not None and "true" not in info.allowed:
            out[place.path] = f"{place.shown}: {short(_read(raw, place.path))} is not {info.type}"
    return out


def _prune(raw: dict[str, Any], path: Sequence[str | int], missing: bool) -> None:
    """Take a wrong value out, so that validation can look at the rest; lists go as a whole."""
    path = list(path)
    while len(path) > 1 and any(isinstance(part, int) for part in path):
        path.pop()
    holder = _read(raw, path[:-1])
    if isinstance(holder, dict):
        holder.pop(path[-1], None)
        if missing:
            holder[path[-1]] = "placeholder"


def _guess_kind(raw: dict[str, Any], name: str) -> None:
    """After a wrong ``kind``: go on with the nearest one, else with the one that knows most of the given keys."""
    section, models = raw.get(name), CHOICES_KINDS[name]
    if not isinstance(section, dict):
        raw.pop(name, None)
        return
    near = difflib.get_close_matches(str(section.get("kind")).lower().replace("-", "_"), models, n=1, cutoff=0.5)
    section["kind"] = near[0] if near else max(models, key=lambda m: len(set(models[m].model_fields) & set(section)))


def check(raw: dict[str, Any]) -> tuple[Recipe | None, list[str]]:
    """Validate, and go on after each round of mistakes with those taken out, so that one answer names all of them.

    Returns the recipe (None when anything is wrong) and the mistakes in words.
    """
    raw = normalise(raw)
    mistakes: dict[str, None] = {}
    for path, sentence in _boolean_mistakes(raw).items():
        mistakes[sentence] = None
        _prune(raw, path, missing=False)
    for _ in range(6):
        try:
            recipe = Recipe.model_validate(raw)
        except ValidationError as failure:
            errors = [(error, locate(error["loc"])) for error in failure.errors(include_url=False)]
            seen: set[str] = set()
            for error, place in errors:  # words first: pruning changes what they quote
                if place.shown not in seen:
                    mistakes[_sentence(error, place, raw)] = None
                    seen.add(place.shown)
            for error, place in errors:
                if error["type"].startswith("union_tag"):
                    _guess_kind(raw, place.lookup)
                elif place.path:
                    _prune(raw, place.path, missing=error["type"] == "missing" and _read(raw, place.path) is None)
            if all(not place.path for _, place in errors):
                break
        else:
            return (None if mistakes else recipe), list(mistakes)
    return None, list(mistakes)
