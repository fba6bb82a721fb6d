"""The published models: one table per system (``*.yaml`` beside this file), read into :class:`Published` entries."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from openjepa.errors import ConfigError, nearest
from openjepa.hub.catalogue.entry import UNKNOWN, ProbeSource, Published, Source

__all__ = ["UNKNOWN", "ProbeSource", "Published", "Source", "choose_source", "families", "find", "lookup", "published"]

_ORDER = ("ijepa", "vjepa", "vjepa2", "vjepa2_ac", "vjepa2_1", "mae", "videomae", "dinov2", "dinov3")
_WHOLE = ("target_encoder", "encoder")  # what official files hold (official.md §6.1)


@cache
def published() -> tuple[Published, ...]:
    """Every published model, system by system."""
    here = Path(__file__).parent
    tables = [yaml.safe_load((here / f"{name}.yaml").read_text(encoding="utf-8")) for name in _ORDER]
    return tuple(_entry(table, row) for table in tables for row in table["models"])


def families() -> list[str]:
    """The systems that have published models."""
    return list(dict.fromkeys(entry.family for entry in published()))


def find(name: str) -> Published | None:
    """The model with this name, alias or Hugging Face repository; None when there is none.

    Case counts only where it tells two models apart (ViT-g, ViT-G).
    """
    exact = [entry for entry in published() if name in _names(entry)]
    loose = exact or [entry for entry in published() if name.lower() in {n.lower() for n in _names(entry)}]
    return loose[0] if len(loose) == 1 else None


def lookup(name: str) -> Published:
    """The same, or one line with the nearest name. Raises ConfigError."""
    found = find(name)
    if found is None:
        known = [n for entry in published() for n in (entry.name, *entry.aliases)]
        raise ConfigError(f"no published model '{name}'{nearest(name, known)}: openjepa models list names them all")
    return found


def choose_source(entry: Published, kind: str | None = None) -> Source:
    """The source of this kind, or the default one. Raises ConfigError naming those there are."""
    found = next((source for source in entry.sources if kind in (None, source.kind)), None)
    if found is None:
        kinds = [source.kind for source in entry.sources]
        raise ConfigError(f"'{entry.name}' has no source '{kind}'{nearest(kind, kinds)}: there is {', '.join(kinds)}")
    return found


def _names(entry: Published) -> set[str]:
    """Everything a model answers to."""
    repositories = {source.where for source in entry.sources if source.kind == "hf"}
    return {entry.name, *entry.aliases, *repositories}


def _entry(table: dict[str, Any], row: dict[str, Any]) -> Published:
    """One row with what its table says of all of them."""
    base, family = table.get("base_url", ""), table.get("import_family")
    remarks = table.get("notes", {})
    frames = row.get("frames")
    hints = {"family": family, "image_size": row["resolution"], **({"frames": frames} if frames else {})}
    return Published(
        name=row["name"],
        aliases=tuple(row["aliases"]),
        family=table["family"],
        about=table["about"],
        paper=table["paper"],
        size=row["size"],
        encoder=row["encoder"],
        parameters=row["parameters"],
        predictor=row.get("predictor", {}),
        predictor_parameters=row.get("predictor_parameters", 0),
        resolution=row["resolution"],
        frames=frames,
        licence=table["licence"],
        commercial=table["commercial"],
        licence_from=table["licence_from"],
        sources=tuple(_source(kind, about, table, base, remarks) for kind, about in row["sources"].items()),
        probes=tuple(
            ProbeSource(task, base + about["file"], about.get("protocol", ""), about.get("remark", ""))
            for task, about in row.get("probes", {}).items()
        ),
        classifier=row.get("classifier", ""),
        scores=row.get("scores", {}),
        data=row.get("data", ""),
        remarks=tuple(row.get("remarks", ())),
        hints=hints if family else {},
    )


def _source(kind: Any, about: dict[str, Any], table: dict[str, Any], base: str, remarks: dict[str, Any]) -> Source:
    """One place to fetch from. Official files hold a predictor; of Hugging Face's copies those of V-JEPA 2 do."""
    notes = tuple(remarks.get(kind, ()))
    if kind == "hf":
        return Source("hf", about["repo"], predictor=table["family"] == "V-JEPA 2", notes=notes)
    encoders = tuple(about.get("encoders", _WHOLE))
    return Source("official", base + about["file"], encoders, True, about.get("sha256"), notes)
