"""Models from the Hugging Face Hub: into its own cache, through its own client, with its own settings.

``HF_HOME``, ``HF_HUB_CACHE``, ``HF_ENDPOINT`` (a mirror), ``HF_HUB_OFFLINE`` and a stored login hold here as in
``transformers``, and what either downloads the other finds. Only configuration, model card and weights are taken; pickled
weights only where there are no safetensors.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub.atomic import sha256
from openjepa.hub.download import check_space, disk_error, is_offline, weights_root

_log = logging.getLogger(__name__)
_ABOUT: tuple[str, ...] = (
    "config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "README.md",
    "LICENSE",
    "manifest.json",  # of a model directory of ours, whose parts have names of their own
)
_SAFE = re.compile(r"(model(-\d+-of-\d+)?|predictor|online|target|classifier)\.safetensors(\.index\.json)?")
_PICKLED = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch_repository(repo: str, revision: str | None = None, file: str | None = None) -> Path:
    """The folder of a Hugging Face model, or one file of it, downloaded once.

    Args:
        repo: ``ORG/NAME``. revision: branch, tag or commit; None for the main branch. file: path of one file in it.

    Raises:
        CheckpointError: no such model, gated, no network, no room, or a damaged file. One line that says what to do.
        ConfigError: the repository has no weights that can be read.
    """
    own = by_hand(repo)
    if revision is None and _complete(own, file):
        return own / file if file else own
    if is_offline():
        found = _cached(repo, revision, file)
        if found is None:
            raise _absent(repo, revision, file, "HF_HUB_OFFLINE is set")
        return found
    try:
        return _fetch(repo, revision, file)
    except (CheckpointError, ConfigError):
        raise
    except Exception as error:  # the client, its transport and its server can raise nearly anything
        refused = _refused(error, repo, revision, file)
        if refused is not None:
            raise refused from error
        why = f"{endpoint()} cannot be reached: {_first_line(error)}"
        found = _cached(repo, revision, file)
        if found is None:
            raise _absent(repo, revision, file, why) from error
        _log.warning("%s: the copy of '%s' from before is used", why, repo)
        return found


def by_hand(repo: str) -> Path:
    """The folder where a person can put the files of a repository."""
    return weights_root() / "huggingface.co" / Path(*repo.split("/"))


def endpoint() -> str:
    """The hub in use: ``HF_ENDPOINT``, by default Hugging Face's."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def is_cached(repo: str) -> bool:
    """Whether a repository's weights are on this machine."""
    return _complete(by_hand(repo), None) or _cached(repo, None, None) is not None


def _fetch(repo: str, revision: str | None, file: str | None) -> Path:
    """Ask what there is, see that it fits on the disk, fetch it, check it."""
    from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache

    cache = Path(constants.HF_HUB_CACHE)
    info = HfApi(endpoint=endpoint()).model_info(repo, revision=revision, files_metadata=True)
    sizes = {item.rfilename: int(item.size or 0) for item in info.siblings or ()}
    wanted = [file] if file in sizes else [] if file else _wanted(sizes)
    if file and not wanted:
        raise CheckpointError(f"'{repo}' has no file '{file}': it has {_some(sizes)}")
    if not file and not _weights(wanted):
        raise ConfigError(
            f"'{repo}' has no model.safetensors or pytorch_model.bin: name one file, hf:{repo}/FILE ({_some(sizes)})"
        )
    here = {name: try_to_load_from_cache(repo, name, cache, info.sha) for name in wanted}
    missing = [name for name, path in here.items() if not isinstance(path, str)]
    check_space(cache, sum(sizes[name] for name in missing), f"'{repo}'")
    folder = Path(
        snapshot_download(
            repo,
            revision=revision,
            allow_patterns=wanted,
            cache_dir=cache,
            endpoint=endpoint(),
            library_name="openjepa",
            tqdm_class=_bar(),
        )
    )
    _check(folder, wanted, repo)
    return folder / file if file else folder


def _bar() -> Any:
    """Hugging Face's progress bar, where somebody watches."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": options.get("disable") or None})  # None: on a terminal

    return Bar


def _wanted(names: Iterable[str]) -> list[str]:
    """Files to take: what describes the model, and its weights once."""
    names = list(names)
    safe = [name for name in names if _SAFE.fullmatch(name)]
    weights = safe if _weights(safe) else [name for name in names if _PICKLED.fullmatch(name)]
    return [name for name in names if name in _ABOUT] + weights


def _weights(names: Iterable[str]) -> bool:
    return any(name.endswith((".safetensors", ".bin")) for name in names)


def _check(folder: Path, names: Sequence[str], repo: str) -> None:
    """Compare large files with the checksum that the hub names them by, once for each.

    Raises:
        CheckpointError: one differs; it is removed, so that the next call fetches it again.
    """
    for name in names:
        blob = (folder / name).resolve()
        mark = weights_root().parent / "checked" / blob.name
        if (
            not _SHA256.fullmatch(blob.name) or mark.exists()
        ):  # small files have another digest; a cache without links none
            continue
        if sha256(blob) != blob.name:
            blob.unlink()
            (folder / name).unlink(missing_ok=True)
            raise CheckpointError(f"'{name}' of '{repo}' was damaged on the way (its checksum differs): run this again")
        with contextlib.suppress(OSError):  # a cache that cannot be written to is checked every time
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


def _cached(repo: str, revision: str | None, file: str | None) -> Path | None:
    """What the cache holds of a repository, when that is all it takes."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(repo, file or "config.json", constants.HF_HUB_CACHE, revision)
    if not isinstance(found, str):
        return None
    if file:
        return Path(found)
    return Path(found).parent if _complete(Path(found).parent, None) else None


def _complete(folder: Path, file: str | None) -> bool:
    """Whether a folder has its configuration and all its weights, or the one file."""
    if file:
        return (folder / file).is_file()
    if not (folder / "config.json").is_file():
        return False
    for index, whole in (
        ("model.safetensors.index.json", "model.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin"),
    ):
        if (folder / whole).is_file():
            return True
        if (folder / index).is_file():
            try:
                parts = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
            except (ValueError, KeyError, AttributeError, TypeError):
                return False
            return all((folder / str(part)).is_file() for part in parts)
    return False


def _absent(repo: str, revision: str | None, file: str | None, why: str) -> CheckpointError:
    """The one line that says what to fetch by hand, and where to put it."""
    files = file or "the .json files and model.safetensors"
    at = f"https://huggingface.co/{repo}/tree/{revision or 'main'}"
    return CheckpointError(
        f"cannot download ({why}): fetch {files} of {at} elsewhere and put them into '{by_hand(repo)}'"
    )


def _refused(error: Exception, repo: str, revision: str | None, file: str | None) -> Exception | None:
    """The one line for an answer that another try will not change; None when the hub was not reached."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    page = f"{endpoint()}/{repo}"
    if "HFValidationError" in kinds:
        return ConfigError(f"'{repo}' is no name of a Hugging Face model: write hf:ORG/NAME")
    if "GatedRepoError" in kinds:
        return CheckpointError(
            f"'{repo}' is gated: accept its licence at {page}, then log in once with 'hf auth login'"
        )
    if "RepositoryNotFoundError" in kinds:
        return CheckpointError(f"there is no model '{repo}' at {endpoint()}, or it is private (then: hf auth login)")
    if "RevisionNotFoundError" in kinds:
        return CheckpointError(f"'{repo}' has no revision '{revision}': see {page}/commits")
    if "RemoteEntryNotFoundError" in kinds:
        return CheckpointError(f"'{repo}' has no file '{file}': see {page}/tree/main")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None and 400 <= status < 500 and status not in (408, 429):
        return CheckpointError(f"{page} is not given out ({status}): {_first_line(error)}")
    if isinstance(error, OSError) and error.errno is not None and "HfHubHTTPError" not in kinds:
        return disk_error(weights_root(), error) if not isinstance(error, ConnectionError) else None
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _some(names: Iterable[str]) -> str:
    listed = [name for name in names if not name.startswith(".")]
    return ", ".join(listed[:6]) + (", …" if len(listed) > 6 else "") if listed else "nothing"
