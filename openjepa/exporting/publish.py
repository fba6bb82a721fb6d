"""``openjepa.push``: an export on the Hugging Face Hub, with a model card. Nothing is uploaded before it is verified."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openjepa.errors import ConfigError, RunError
from openjepa.exporting.cards import render_export_card
from openjepa.exporting.dispatch import GRAPHS, export
from openjepa.exporting.graph import first_line
from openjepa.exporting.result import Exported, Format
from openjepa.hub.card import licence_entries
from openjepa.hub.model_directory import README, Which
from openjepa.loading import load
from openjepa.model import AnyModel

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FOLDER = "path/to/this/folder"  # what the card of a model directory calls itself


@dataclass(frozen=True)
class Pushed:
    """What is on the Hub now.

    repo: its name. url: of the repository. exported: what was verified; its files have left this machine. files: names in
    the repository. notes: what a user should know.
    """

    repo: str
    url: str
    exported: Exported
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Two lines and the notes."""
        done = self.exported
        lines = [
            f"pushed   {', '.join(self.files)} to {self.url}",
            f"error    {done.error:.1e} relative to the source, before it was uploaded",
        ]
        return "\n".join([*lines, *(f"note     {note}" for note in (*done.notes, *self.notes))])


def push(
    model: AnyModel | str | Path,
    repo: str,
    format: Format = "safetensors",
    *,
    which: Which = "deployed",
    private: bool = False,
    licence: str | None = None,
    message: str | None = None,
    api: Any = None,
    **options: Any,
) -> Pushed:
    """Export a model, verify it, and upload it with a card to ``repo``, which is made where there is none.

    A card that is there already, which somebody may have written by hand, is kept.

    Args:
        model, format, which, options: as in :func:`openjepa.export`. repo: ``ORG/NAME``. private: of a new repository.
        licence: of the weights as the Hub calls it (``"cc-by-nc-4.0"``), where the source does not say it. message: of the
            commit. api: a ``huggingface_hub.HfApi``; by default one with the token of ``hf auth login`` or ``HF_TOKEN``.

    Raises:
        ConfigError: no such name. RunError: the Hub refuses or cannot be reached. Others as in :func:`openjepa.export`.
    """
    if _NAME.fullmatch(repo) is None:
        raise ConfigError(f"'{repo}' is no name on the Hub: write ORG/NAME, such as my-lab/ijepa-leaves")
    if options.pop("overwrite", False):
        raise ConfigError("a push makes a new commit and loses nothing: leave out --overwrite")
    if isinstance(model, str | Path):
        model = load(model, which=which)
    with tempfile.TemporaryDirectory(prefix="openjepa-push-") as scratch:
        folder = Path(scratch) / "model"
        out = folder / f"model.{format}" if format in GRAPHS else folder
        done = export(model, out, format, **options)
        _write_card(model, folder, done, repo, licence)
        url, notes = _upload(api, repo, folder, private, message or f"{done.format} written by openjepa")
        files = tuple(sorted(item.name for item in folder.iterdir()))
    return Pushed(repo, url, done, files, notes)


def _write_card(model: AnyModel, folder: Path, done: Exported, repo: str, licence: str | None) -> None:
    """The README.md: a model directory has its own, in which only its place and licence are set."""
    page = folder / README
    if done.format != "safetensors":
        text = render_export_card(model, done, repo=repo, licence=licence)
    else:
        text = page.read_text(encoding="utf-8").replace(_FOLDER, f"hf:{repo}")
        if licence is not None:
            told = "".join(f"{name}: {value}\n" for name, value in licence_entries(licence).items())
            text = re.sub(r"\A---\n(license.*\n)*", lambda _: f"---\n{told}", text)
    page.write_text(text, encoding="utf-8")


def _upload(api: Any, repo: str, folder: Path, private: bool, message: str) -> tuple[str, tuple[str, ...]]:
    """Make the repository and commit the folder; returns its address and notes."""
    import huggingface_hub

    client = api if api is not None else huggingface_hub.HfApi(library_name="openjepa")
    try:
        made = client.create_repo(repo, repo_type="model", private=private, exist_ok=True)
        kept = bool(client.file_exists(repo, README))
        client.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            repo_type="model",
            commit_message=message,
            ignore_patterns=[README] if kept else None,
        )
    except Exception as error:  # whatever a client, a proxy or a server can raise
        raise _refused(error, repo) from error
    return str(made), (f"its {README} was there already and is kept",) if kept else ()


def _refused(error: Exception, repo: str) -> RunError:
    """One line: why, and what to do."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "LocalTokenNotFoundError" in kinds or status in (401, 403):
        return RunError(
            f"the Hub does not let you write to '{repo}': log in with 'hf auth login', or set HF_TOKEN to a token that may write"
        )
    if "OfflineModeIsEnabled" in kinds:
        return RunError(
            "HF_HUB_OFFLINE is set, so nothing is pushed: unset it, or export and upload the folder yourself"
        )
    return RunError(
        f"'{repo}' could not be pushed ({type(error).__name__}: {first_line(error)}): nothing was changed here"
    )
