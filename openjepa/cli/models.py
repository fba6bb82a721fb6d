"""``openjepa models list|show|get|inspect``: published weights by name, and what a weight file holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # torch is imported when a command runs, not for --help
    from openjepa.hub.catalogue import Published, Source
    from openjepa.hub.imports import Inspected, KeyRow

app = typer.Typer(
    help="Published weights by name: list, show, get; and what a weight file holds: inspect.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Name = Annotated[str, typer.Argument(help="name or alias, as 'openjepa models list' shows them")]


@app.command("list")
def list_(
    family: Annotated[str | None, typer.Option(help="one system alone, such as 'V-JEPA 2'")] = None,
    as_json: AsJson = False,
) -> None:
    """List every published model: size, parameters, resolution, licence, where it is from."""
    from openjepa.hub.catalogue import published

    wanted = _family(family)
    found = [entry for entry in published() if wanted in (None, entry.family)]
    if as_json:
        typer.echo(json.dumps([entry.to_json() for entry in found], indent=2))
        return
    from rich.table import Table

    from openjepa.cli.console import console

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("name", "size", "parameters", "input", "licence", "from"):
        table.add_column(heading, no_wrap=heading != "licence", justify="right" if heading == "parameters" else "left")
    system = None
    for entry in found:
        if entry.family != system:
            system = entry.family
            table.add_row(f"[bold]{system}[/bold]")
        licence = entry.licence + (" (no commercial use)" if entry.commercial is False else "")
        where = "+".join(source.kind for source in entry.sources)
        table.add_row(f"  {entry.name}", entry.size, _millions(entry), _input(entry), licence, where)
    console().print(table)


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show one model: architecture, licence, where each source lies, published scores, what to know."""
    from openjepa.hub.catalogue import lookup

    entry = lookup(name)
    if as_json:
        typer.echo(json.dumps(entry.to_json(), indent=2))
        return
    _say(_rows(entry))
    typer.echo(f'\nopenjepa.load("{entry.name}")')


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="name, alias, NAME@official, hf:ORG/NAME[/FILE][@REVISION], or a URL")],
    probe: Annotated[
        str | None, typer.Option(help="a published attentive probe of this model too: ssv2, k400, …")
    ] = None,
) -> None:
    """Download a model, into the cache that transformers shares, and say where it is."""
    from openjepa.errors import ConfigError
    from openjepa.hub.resolve import is_download, resolve, resolve_probe

    if Path(name).exists():
        raise ConfigError(f"'{name}' is on this machine already: openjepa models inspect '{name}' looks into it")
    if name.startswith(("timm:", "hf:")) and not is_download(name):
        raise ConfigError(f"'{name}' is built when it is used: nothing is downloaded for it here")
    found = resolve(name)
    typer.echo(f"{found.path}")
    typer.echo(f"from     {found.source}")
    use = found.entry.use() if found.entry is not None and found.licence == found.entry.licence else found.licence
    typer.echo(f"licence  {use or 'unknown'}")
    if found.sha256:
        typer.echo(f"sha256   {found.sha256}")
    for note in found.notes:
        typer.echo(f"note     {note}")
    if probe is not None:
        typer.echo(f"probe    {resolve_probe(name, probe)}")


@app.command()
def inspect(
    file: Annotated[
        str,
        typer.Argument(help="weight file (.pt, .pth.tar, .safetensors), Hugging Face directory, or a published name"),
    ],
    hint: Annotated[
        list[str] | None, typer.Option(help="what the tensors do not tell, such as heads=16; an error asks for it")
    ] = None,
    all_keys: Annotated[bool, typer.Option("--all", help="every key, not the first ones of each kind")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a weight file holds: whose names, which architecture, every tensor with our name for it. Builds no model."""
    from openjepa.hub.imports import inspect_weights

    path, hints = _file(file)
    found = inspect_weights(path, {**hints, **_hints(hint or [])})
    if as_json:
        typer.echo(json.dumps(_inspected_json(found), indent=2))
        return
    rows = [("file", str(found.path)), ("layout", f"{found.layout}: {found.about}")]
    rows += [("sections", ", ".join(found.sections))]
    rows += [
        (part.replace("_", " "), _settings(value)) for part, value in found.architecture.items() if value is not None
    ]
    _say(rows)
    _key_table(found.keys, all_keys)


def _file(name: str) -> tuple[Path, Mapping[str, Any]]:
    """A file as it is; a published name is downloaded first, and the catalogue's hints go with it."""
    from openjepa.hub.resolve import is_download, resolve

    if Path(name).exists() or not is_download(name):
        return Path(name), {}
    found = resolve(name)
    return found.path, found.hints


def _hints(words: Sequence[str]) -> dict[str, Any]:
    """``heads=16`` → ``{"heads": 16}``. Raises ConfigError."""
    from openjepa.errors import ConfigError

    hints: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not text:
            raise ConfigError(f"'{word}' is no hint: write --hint heads=16")
        try:
            hints[key] = json.loads(text)
        except ValueError:
            hints[key] = text
    return hints


def _say(rows: Sequence[tuple[str, str]]) -> None:
    """Words and what they are, in two columns."""
    width = max(len(key) for key, _ in rows) + 2
    for key, text in rows:
        typer.echo(f"{key:<{width}}{text}")


def _family(wanted: str | None) -> str | None:
    """The system that is meant, however it is spelt. Raises ConfigError."""
    if wanted is None:
        return None
    from openjepa.errors import ConfigError, nearest
    from openjepa.hub.catalogue import families

    def plain(text: str) -> str:
        return "".join(sign for sign in text.lower() if sign.isalnum() or sign == ".")

    known = {plain(name): name for name in families()}
    if plain(wanted) not in known:
        raise ConfigError(f"no family '{wanted}'{nearest(wanted, families())}: choose from {', '.join(families())}")
    return known[plain(wanted)]


def _millions(entry: Published) -> str:
    """Parameters of the encoder, and behind a plus those of the predictor."""
    more = f" + {entry.predictor_parameters / 1e6:.0f}" if entry.predictor_parameters else ""
    return f"{entry.parameters / 1e6:,.0f}{more} M"


def _input(entry: Published) -> str:
    """Pixels, and frames where there are any."""
    return f"{entry.resolution} px" + (f", {entry.frames} frames" if entry.frames else "")


def _rows(entry: Published) -> list[tuple[str, str]]:
    """What ``show`` prints."""
    facts = entry.encoder
    parts = [f"{facts['depth']} blocks of {facts['dim']}, {facts['heads']} heads, patches of {facts['patch']} px"]
    parts += [f"{facts['tubelet']} frames a token"] if "tubelet" in facts else []
    rows = [
        ("name", entry.name),
        ("aliases", ", ".join(entry.aliases)),
        ("system", f"{entry.family}: {entry.about} ({entry.paper})"),
        ("encoder", f"{entry.size}, {entry.parameters / 1e6:,.1f} M parameters: {', '.join(parts)}"),
    ]
    if entry.predictor:
        p = entry.predictor
        rows.append(
            (
                "predictor",
                f"{p['depth']} blocks of {p['dim']}, {p['heads']} heads, {entry.predictor_parameters / 1e6:,.1f} M",
            )
        )
    rows += [("input", _input(entry))]
    rows += [("trained on", entry.data)] if entry.data else []
    rows += [("classifier", f"{entry.classifier}, part of the weights")] if entry.classifier else []
    rows += [("licence", f"{entry.use()} (from {entry.licence_from})")]
    if entry.scores:
        rows.append(
            ("published", ", ".join(f"{task} {value:g}" for task, value in entry.scores.items()) + " (frozen, %)")
        )
    for source in entry.sources:
        rows += _source_rows(entry, source)
    for probe in entry.probes:
        more = "; ".join(text for text in (probe.protocol, probe.remark) if text)
        rows.append((f"probe {probe.task}", probe.url + (f" ({more})" if more else "")))
    return rows + [("note", text) for text in entry.remarks]


def _source_rows(entry: Published, source: Source) -> list[tuple[str, str]]:
    """Where one copy lies, what is in it, and whether it is here."""
    from openjepa.hub.resolve import is_here

    first = source is entry.default
    holds = [*source.encoders, *(["predictor"] if source.predictor else [])]
    what = f" ({', '.join(holds)})" if holds else ""
    here = ", on this machine" if is_here(source) else ""
    how = "" if first else f", as {entry.name}@{source.kind}"
    return [(f"from {source.kind}", f"{source}{what}{how}{here}"), *(("note", text) for text in source.notes)]


def _settings(value: object) -> str:
    """An inferred part in words: ``dim 1280, depth 32``."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return "×".join(map(str, value)) if isinstance(value, list) else str(value)


def _key_table(keys: tuple[KeyRow, ...], every: bool) -> None:
    """Their names beside ours; numbered blocks stand for one another unless every key is asked for."""
    from rich.table import Table

    from openjepa.cli.console import console

    shown = list(keys) if every else _first_blocks(keys)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("key", "shape", "ours"):
        table.add_column(heading, overflow="fold")
    for row in shown:
        table.add_row(row.theirs, "×".join(map(str, row.shape)) or "()", row.ours or f"– ({row.note})")
    console().print(table)
    kept = sum(row.ours is not None for row in keys)
    less = f"; {len(keys) - len(shown)} more like these: --all shows them" if len(shown) < len(keys) else ""
    typer.echo(f"{len(keys)} tensors, {kept} taken, {len(keys) - kept} left out or joined{less}")


def _first_blocks(keys: tuple[KeyRow, ...]) -> list[KeyRow]:
    """Keys without those of blocks behind the first."""
    return [row for row in keys if not any(word.isdigit() and word != "0" for word in row.theirs.split("."))]


def _inspected_json(found: Inspected) -> dict[str, object]:
    """Everything of it, for ``--json``."""
    return {
        "file": str(found.path),
        "layout": found.layout,
        "about": found.about,
        "sections": list(found.sections),
        "architecture": dict(found.architecture),
        "keys": [
            {"key": row.theirs, "ours": row.ours, "shape": list(row.shape), "note": row.note} for row in found.keys
        ],
    }
