"""Moving pictures as files: mask tubes, PCA maps through time, surprise. Each function returns the path it wrote."""

from __future__ import annotations

from pathlib import Path

from openjepa.config.schema import Recipe
from openjepa.errors import ConfigError
from openjepa.hub.opening import open_own
from openjepa.visualize import clips, surprise, surprise_film, time_maps, tubes
from openjepa.visualize.animation import Film, film_path
from openjepa.visualize.opened import Opened, open_videos
from openjepa.visualize.output import write_bytes
from openjepa.visualize.surprise_film import Shown


def write_film(path: Path, film: Film) -> Path:
    """The film in the form its name asks for."""
    return write_bytes(path, film.encode(path.suffix.lower()))


def write_tubes(data: str, recipe: Recipe, out: str | Path, *, count: int = 2, augment: bool = True) -> Path:
    """Mask tubes of a video ``recipe`` on ``count`` clips of ``data``, as GIF, MP4 or PNG.

    Raises:
        ConfigError, DataError: a wrong name, or no readable video. MissingExtra: MP4 without PyAV.
    """
    path = film_path(out)
    source = open_videos(recipe, data)
    assert recipe.data.clip is not None
    previews, names = tubes.tube_previews(source, recipe, count=count, augment=augment)
    grid = " × ".join(map(str, recipe.grid))
    title = f"Masks of {recipe.name} on {source.name}, {grid} tokens"
    return write_film(path, tubes.tube_film(previews, names, title, clips.seconds_per_frame(source, recipe.data.clip)))


def write_time_pca(
    found: Opened,
    data: str,
    out: str | Path,
    *,
    count: int = 2,
    frames: int | None = None,
    foreground: bool = False,
    remove_position: bool = False,
    device: str = "cpu",
) -> Path:
    """PCA maps through time of ``count`` videos of ``data``, as GIF, MP4 or PNG.

    frames: of each video, from its beginning; none: one clip of the model's length. Longer ones are encoded in windows.

    Raises:
        ConfigError, DataError: a wrong argument, or no readable video. MissingExtra: MP4 without PyAV.
    """
    path = film_path(out)
    assert found.data is not None
    assert found.data.clip is not None
    source = found.open(data)
    length = found.data.clip.frames
    videos = clips.whole_videos(source, found.data, count, frames or length)
    features = [
        time_maps.window_features(found.encoder, video.clip, found.normalise, length, device=device) for video in videos
    ]
    drawn = time_maps.pca_through_time(features, foreground=foreground, remove_position=remove_position)
    title = f"PCA of patch features through time · {found.name}"
    lengths = [len(part) for part in features]
    return write_film(path, time_maps.pca_film(videos, drawn, lengths, found.tubelet, found.encoder.patch_size, title))


def write_surprise(
    model: str | Path,
    data: str,
    out: str | Path = "surprise.gif",
    *,
    mode: str = "masked",
    count: int = 1,
    frames: int | None = None,
    numbers: str | Path | None = None,
    device: str = "cpu",
) -> list[Path]:
    """Prediction error over space and time of ``count`` videos of ``data``: heat over the frames and a strip below.

    Args:
        model: run, checkpoint or model directory of a video model with its predictor. data: a video, folder, list or
            built-in. out: ``.gif``, ``.mp4`` or ``.png``. mode: see :mod:`openjepa.visualize.surprise`. frames: of each
            video, from its beginning; none: all of it, :data:`openjepa.visualize.clips.MOST_FRAMES` at most.
        numbers: where the errors are written, ``.json`` or ``.csv``.

    Returns:
        What was written: the picture, and the numbers where asked for.

    Raises:
        CheckpointError, ConfigError, DataError: one line each. MissingExtra: MP4 without PyAV.
    """
    path = film_path(out)
    table = _numbers_path(numbers)
    loaded = open_own(model)
    surprise.check_mode(loaded.config, mode)
    surprise.subject(loaded)  # a model that predicts nothing of clips is refused before any video is read
    source = open_videos(loaded.config, data)
    videos = clips.whole_videos(source, loaded.config.data, count, frames)
    others = clips.compared_with(source, loaded.config.data) if surprise.centres(loaded) else None
    shown = [
        Shown(
            video.name,
            clips.to_rgb(video.clip),
            surprise.surprise(loaded, video.clip, mode, others=others, device=device),
            video.seconds,
        )
        for video in videos
    ]
    name = Path(model).resolve().name
    film = surprise_film.surprise_film(shown, f"Surprise: error of predictions · {name}")
    written = [write_film(path, film)]
    if table is not None:
        told = surprise_film.numbers(shown, name)
        form = surprise_film.as_csv if table.suffix.lower() == ".csv" else surprise_film.as_json
        written.append(write_bytes(table, form(told)))
    return written


def _numbers_path(numbers: str | Path | None) -> Path | None:
    """Where numbers go; they are JSON or CSV."""
    if numbers is None:
        return None
    path = Path(numbers)
    if path.suffix.lower() not in (".json", ".csv"):
        raise ConfigError(f"numbers are written as .json or .csv, not '{path.suffix}': '{path}'")
    return path
