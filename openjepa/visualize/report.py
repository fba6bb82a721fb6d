"""``report.html``: one self-contained file that says what was run, whether it is healthy, and what it learned.

The page loads nothing: pictures are ``data:`` addresses, charts inline SVG, style inline CSS. Everything that comes
from the run or the data (file names above all) is escaped by the template engine.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import openjepa
from openjepa.config.schema import Recipe
from openjepa.data import Source
from openjepa.data.splits import Splits
from openjepa.errors import require
from openjepa.hub.checkpoint import list_checkpoints
from openjepa.hub.model_directory import LoadedModel, load_model
from openjepa.visualize import curves, gallery, gallery_video, summary
from openjepa.visualize import gallery_inside as inner
from openjepa.visualize.output import write_bytes
from openjepa.visualize.rundir import RunFacts, flatten, open_run
from openjepa.visualize.verdict import health, learning

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class ReportOptions:
    """How much is drawn, at most.

    maps: held-out images with PCA maps. masks: mask previews. queries, neighbours: rows and columns of the contact
    sheet. searched: training images looked through for it. seconds: of encoder time for the maps, and again for the
    neighbours; a slow encoder draws fewer. attention: held-out images with attention maps, and with decoded features or
    reconstructions where there are such (0: none). surprise: held-out videos with their prediction error, for video runs.
    Of clips fewer are drawn than asked for: they move, and are large. device: where features are computed (``auto``: CUDA
    where there is one).
    """

    maps: int = 24
    masks: int = 6
    queries: int = 8
    neighbours: int = 6
    searched: int = 2000
    seconds: float = 8.0
    attention: int = 4
    surprise: int = 2
    device: str = "auto"

    @property
    def on(self) -> str:
        """The device itself."""
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"


def write_report(
    run_dir: str | Path,
    *,
    out: str | Path | None = None,
    data: str | None = None,
    train: Source | None = None,
    held_out: Source | None = None,
    origin: str = "",
    options: ReportOptions | None = None,
) -> Path:
    """Write the report of a run, finished or not, and return its path.

    Whatever is missing (labels, scores, a model, the data, metrics) is named in a sentence in its place.

    Args:
        run_dir: what ``openjepa pretrain`` wrote.
        out: the HTML file; by default ``report.html`` in the run directory.
        data: where the images are now, when not where the run's config says.
        train, held_out: opened sources, when the caller has them (else they are opened as the run did).
        origin: where ``held_out`` comes from, in words.
        options: how much is drawn.

    Raises:
        RunError: ``run_dir`` holds no run, or the report cannot be written.
        MissingExtra: matplotlib or jinja2 is not installed.
    """
    require("matplotlib", "viz")
    jinja2 = require("jinja2", "viz")
    facts = open_run(run_dir)
    options = options or ReportOptions()

    def splits(recipe: Recipe) -> Splits:
        return gallery.find_splits(recipe, data, train, held_out, origin)

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(summary.FILTERS)
    page = environment.get_template("report.html.j2").render(
        **_texts(facts), **_charts(facts), **_pictures(facts, splits, options), missing=facts.missing
    )
    path = Path(out) if out is not None else facts.path / "report.html"
    return write_bytes(path, page.encode("utf-8"))


def _texts(facts: RunFacts) -> dict[str, Any]:
    """Everything in words and numbers."""
    sessions = facts.environment.get("sessions") or []
    machine = sessions[-1] if sessions and isinstance(sessions[-1], Mapping) else {}
    plan = facts.environment.get("plan") or {}
    return {
        "name": facts.path.resolve().name,
        "recipe": facts.recipe,
        "things": "clips" if facts.recipe is not None and facts.recipe.video else "images",
        "headline": summary.headline(facts),
        "progress": summary.progress(facts),
        "health": health(facts.metrics),
        "learning": learning(facts.metrics, facts.scores),
        "tiles": summary.tiles(facts),
        "entries": facts.scores,
        "score_groups": summary.score_groups(facts.scores),
        "plan": flatten(plan) if isinstance(plan, Mapping) else [],
        "machine": flatten(machine),
        "sessions": len(sessions),
        "other": flatten({k: v for k, v in facts.environment.items() if k not in ("plan", "sessions")}),
        "decisions": summary.decisions(facts.log_lines),
        "log_lines": facts.log_lines,
        "base": facts.base,
        "changes": [(key, summary.plain(a), summary.plain(b)) for key, a, b in facts.changes],
        "config_text": facts.config_text,
        "bad_files": facts.bad_files,
        "commands": _commands(facts),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": openjepa.__version__,
    }


def _charts(facts: RunFacts) -> dict[str, Any]:
    """The curves; the first, against the cheats, is twice as wide."""
    from markupsafe import Markup  # comes with jinja2

    levels = {"probes": summary.baselines(facts.scores)}
    charts = facts.attempt("curves", lambda: curves.panels(facts.metrics, levels=levels), [])

    def drawn(panel: curves.Panel) -> dict[str, Any]:
        width = 6.7 if panel.key == "cheats" else 3.1  # inches: letters come out at about 11 pixels in both
        return {"panel": panel, "svg": Markup(curves.panel_svg(panel, width=width))}

    made = facts.attempt("curves", lambda: [drawn(panel) for panel in charts], [])
    return {"charts": made, "rows": len(facts.metrics), "cheats": bool(facts.metrics.last("health.cheats"))}


def _pictures(facts: RunFacts, open_data: Callable[[Recipe], Splits], options: ReportOptions) -> dict[str, Any]:
    """Masks, maps and neighbours; each None with a sentence in ``facts.missing`` when it cannot be drawn."""
    nothing = (
        "masks", "clip_masks", "views", "maps", "surprise", "neighbours", "attention", "decoded", "reconstructed", "weights"
    )  # fmt: skip
    pictures: dict[str, Any] = {"origin": "", **dict.fromkeys(nothing)}
    recipe = facts.recipe
    if recipe is None:
        facts.missing.setdefault("masks", "The run's config could not be read, so its data and masks are unknown.")
        facts.missing.setdefault("model", "The run's config could not be read, so its data is unknown.")
        return pictures
    splits = facts.attempt("masks", lambda: open_data(recipe), None)
    if splits is None:
        facts.missing["model"] = facts.missing["masks"]
        return pictures
    pictures["origin"] = splits.origin
    pictures.update(_inputs(facts, recipe, splits, options))
    if facts.model is None and not list_checkpoints(facts.path / "checkpoints"):
        facts.missing["model"] = "The run has saved no weights yet, so there are no features to draw."
        return pictures
    loaded: LoadedModel | None = facts.attempt("model", lambda: load_model(facts.path), None)
    if loaded is None:
        return pictures
    encoder = loaded.encoder
    pictures["weights"] = loaded.step if facts.model is None else None
    pictures["maps"] = facts.attempt(
        "maps",
        lambda: gallery.map_tiles(
            recipe, encoder, splits.held_out, count=options.maps, seconds=options.seconds, device=options.on
        ),
        None,
    )
    pictures["neighbours"] = facts.attempt(
        "neighbours",
        lambda: gallery.neighbour_tiles(
            recipe, encoder, splits, queries=options.queries, k=options.neighbours, most=options.searched,
            seconds=options.seconds, device=options.on,
        ),
        None,
    )  # fmt: skip
    if recipe.video:
        pictures["surprise"] = _surprise(facts, loaded, splits, options)
    return {**pictures, **_inside(facts, loaded, splits, options)}


def _inputs(facts: RunFacts, recipe: Recipe, splits: Splits, options: ReportOptions) -> dict[str, Any]:
    """What training showed the encoder: masks, or views, or neither."""
    if recipe.data.views:
        drawn = facts.attempt("views", lambda: inner.view_tiles(recipe, splits.train, options.masks), None)
        facts.missing.setdefault("views", "")
        return {"views": drawn}
    if recipe.mask.kind == "none":
        whole = "clip" if recipe.video else "image"
        facts.missing["masks"] = f"This recipe hides nothing: the encoder was shown the whole {whole}."
        return {}
    if recipe.video:
        count = options.masks
        return {
            "clip_masks": facts.attempt("masks", lambda: gallery_video.mask_tiles(recipe, splits.train, count), None)
        }
    return {"masks": facts.attempt("masks", lambda: gallery.mask_tiles(recipe, splits.train, options.masks), None)}


def _inside(facts: RunFacts, loaded: LoadedModel, splits: Splits, options: ReportOptions) -> dict[str, Any]:
    """Attention, and what features or the pixel predictor hold; drawn on a few images only."""
    if options.attention < 1:
        facts.missing["attention"] = "Not drawn: no images were asked for."
        return {}
    count, device = options.attention, options.on

    def attention() -> dict[str, Any]:
        return inner.attention_tiles(loaded, splits.held_out, count=count, device=device)

    def decoded() -> dict[str, Any] | None:
        return inner.decoded_tiles(loaded, splits.held_out, count=count, device=device)

    def reconstructed() -> dict[str, Any] | None:
        return inner.reconstruction_tiles(loaded, splits.held_out, count=count, device=device)

    return {
        "attention": facts.attempt("attention", attention, None),
        "reconstructed": facts.attempt("reconstructed", reconstructed, None),
        "decoded": facts.attempt("decoded", decoded, None),
    }


def _surprise(facts: RunFacts, loaded: LoadedModel, splits: Splits, options: ReportOptions) -> dict[str, Any] | None:
    """Prediction error over space and time of held-out videos."""
    if loaded.config.method == "joint_embedding" or options.surprise < 1:
        facts.missing["surprise"] = "Not drawn: nothing is predicted, or no videos were asked for."
        return None

    def drawn() -> dict[str, Any]:
        return gallery_video.surprise_tiles(loaded, splits.held_out, count=options.surprise, device=options.on)

    return facts.attempt("surprise", drawn, None)


def _commands(facts: RunFacts) -> list[tuple[str, str]]:
    """What to type next: ``(what it does, command)``."""
    run = shlex.quote(str(facts.path))
    source = facts.recipe.data.source if facts.recipe else None
    data = shlex.quote(source) if source else "DATA"
    video = facts.recipe is not None and facts.recipe.video
    file = "clip.mp4" if video else "photo.jpg"
    python = f'import openjepa\nmodel = openjepa.load({str(facts.path)!r})\nvectors = model.embed(["{file}"])'
    look = (
        ("See what surprises it", f"openjepa visualize surprise {data} --model {run}")
        if video
        else ("See what its features hold", f"openjepa visualize decode {data} --model {run}")
    )
    return [
        ("Use the encoder in Python", python),
        ("Score it on labelled folders", f"openjepa evaluate knn --model {run} --train TRAIN_DIR --val VAL_DIR"),
        look,
        ("Go on from the last checkpoint", f"openjepa pretrain {data} --out {run} --resume"),
        ("Run the same experiment again", f"openjepa pretrain {data} --recipe {run}/config.yaml"),
    ]
