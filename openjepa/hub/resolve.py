"""From a name to files on this machine: published names and aliases, ``hf:ORG/NAME[/FILE][@REVISION]``, URLs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from openjepa.errors import ConfigError, nearest
from openjepa.hub.catalogue import UNKNOWN, Published, Source, choose_source, find, lookup, published
from openjepa.hub.download import fetch_url, place_of, split_checksum
from openjepa.hub.download_hf import endpoint, fetch_repository, is_cached

_DRAWN = re.compile(r"@(random|\d+px)(@|$)")  # of the adapters: an architecture, or another input size
_HF_PAGE = re.compile(r"/([^/]+/[^/]+)(?:/(?:resolve|blob|tree)/([^/]+)(?:/(.+))?)?/?")


@dataclass(frozen=True)
class Resolved:
    """A model's files, here.

    path: a weight file, or a Hugging Face directory. source: where it is from (``hf:…`` or a URL). entry: what the
    catalogue knows of it. licence: what the model's own card says, else the catalogue; None where neither does. hints: what
    the file's tensors do not tell. notes: one line each of what a user must know. sha256: of a file from a URL.
    """

    path: Path
    source: str
    entry: Published | None = None
    licence: str | None = None
    hints: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sha256: str | None = None

    @property
    def name(self) -> str | None:
        """The catalogue's name of it."""
        return self.entry.name if self.entry is not None else None


def is_download(text: str) -> bool:
    """Whether ``text`` names something that :func:`resolve` fetches: a published model, ``hf:…`` or a URL.

    ``hf:…@random`` and ``…@96px`` are not: they name an architecture, or another input size.
    """
    if text.startswith("hf:"):
        return _DRAWN.search(text) is None
    return _is_url(text) or find(text.partition("@")[0]) is not None


def resolve(text: str) -> Resolved:
    """The files of a model, downloaded when they are not here.

    Args:
        text: a name or alias of the catalogue, ``NAME@official`` for the authors' own file where Hugging Face's copy is
            the default; ``hf:ORG/NAME``, with ``/FILE`` and ``@REVISION``; a URL, with ``#sha256=HEX`` to have it checked.

    Raises:
        ConfigError: no such name; the nearest is given. CheckpointError: it cannot be downloaded; the line says which file
            to fetch and where to put it.
    """
    if text.startswith("hf:"):
        return _repository(*_parse_hf(text))
    if _is_url(text):
        page = _hub_page(text)
        return _repository(*page) if page is not None else _address(text)
    name, _, kind = text.partition("@")
    entry = lookup(name)
    source = choose_source(entry, kind or None)
    return _repository(source.where) if source.kind == "hf" else _address(source.where, source.sha256)


def resolve_probe(text: str, task: str) -> Path:
    """The file of a published attentive probe, downloaded when it is not here.

    Args:
        text: a published model. task: ``ssv2``, ``k400``, …

    Raises:
        ConfigError: no such model or probe. CheckpointError: as in :func:`resolve`.
    """
    entry = lookup(text.partition("@")[0])
    tasks = [probe.task for probe in entry.probes]
    for probe in entry.probes:
        if probe.task == task.lower():
            return fetch_url(probe.url).path
    listed = ", ".join(tasks) or "none"
    raise ConfigError(f"'{entry.name}' has no published probe '{task}'{nearest(task, tasks)}: there is {listed}")


def is_here(source: Source) -> bool:
    """Whether a source's files are on this machine already. Touches no network."""
    return is_cached(source.where) if source.kind == "hf" else place_of(source.where).is_file()


def _repository(repo: str, revision: str | None = None, file: str | None = None) -> Resolved:
    """A Hugging Face model, and what card and catalogue say of it."""
    path = fetch_repository(repo, revision, file)
    entry = find(repo)
    source = f"hf:{repo}{f'/{file}' if file else ''}{f'@{revision}' if revision else ''}"
    card = _card_licence(path.parent if file else path)
    return _told(path, source, entry, card)


def _address(url: str, sha256: str | None = None) -> Resolved:
    """A file of a server."""
    bare, _ = split_checksum(url)
    fetched = fetch_url(url, sha256=sha256)
    entry = next((e for e in published() for s in e.sources if s.where == bare), None)
    return _told(fetched.path, bare, entry, None, fetched.sha256)


def _told(path: Path, source: str, entry: Published | None, card: str | None, sha256: str | None = None) -> Resolved:
    """The files with their licence and notes."""
    if entry is None:
        return Resolved(path, source, licence=card, sha256=sha256)
    ours = None if entry.licence == UNKNOWN else entry.licence
    used = next((s for s in entry.sources if s.where in source), entry.default)
    notes = (*used.notes, *entry.remarks)
    if card and ours and card.lower() != ours.lower():
        notes += (f"licence: the model's card says {card}, {entry.licence_from} {ours}",)
    hints = entry.hints if used.kind == "official" else {}
    return Resolved(path, source, entry, card or ours, hints, notes, sha256)


def _parse_hf(text: str) -> tuple[str, str | None, str | None]:
    """``hf:ORG/NAME[/FILE][@REVISION]`` → repository, revision, file."""
    body, _, revision = text.removeprefix("hf:").partition("@")
    parts = [part for part in body.split("/") if part]
    if not parts:
        raise ConfigError(f"'{text}' names no model: write hf:ORG/NAME, such as hf:facebook/vjepa2-vitl-fpc64-256")
    return "/".join(parts[:2]), revision or None, "/".join(parts[2:]) or None


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _hub_page(url: str) -> tuple[str, str | None, str | None] | None:
    """The repository, revision and file behind an address of the hub's own site; None for any other server."""
    parts = urlsplit(url)
    if parts.netloc not in ("huggingface.co", "hf.co", urlsplit(endpoint()).netloc) or parts.fragment:
        return None
    found = _HF_PAGE.fullmatch(parts.path)
    return (found[1], None if found[2] == "main" else found[2], found[3]) if found is not None else None


def _card_licence(folder: Path) -> str | None:
    """The licence in the front matter of a model's card; None where there is none."""
    try:
        parts = (folder / "README.md").read_text(encoding="utf-8").split("---")
        about = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0].strip() else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    if not isinstance(about, dict) or "license" not in about:
        return None
    named = about.get("license_name") if about["license"] == "other" else None
    return str(named or about["license"])
