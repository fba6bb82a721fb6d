"""The model card: the README.md that travels with weights, written for the person who finds them in a year."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from openjepa.config.schema import Recipe
from openjepa.hub.provenance import Provenance

LICENCE = (
    "These weights were made by the person who ran the training, and they are theirs: openjepa (Apache-2.0) claims no "
    "right in them. What the training data allows still holds."
)
_HUB_LICENCES = {  # those of the Hub's list that weights of vision models have had
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *("cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "openrail", "unlicense"),
    *("unknown", "other"),
}


@dataclass(frozen=True)
class ModelCard:
    """What a card says beside the recipe.

    step: finished optimizer steps. samples: images seen. data: what it was trained on, in words; none: the recipe's
    source. verdict: the health verdict in words. scores: name → share in 0..1 (``{"knn": 0.41}``). notes: sentences.
    provenance: of weights that others published.
    """

    step: int | None = None
    samples: int | None = None
    data: str | None = None
    verdict: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    provenance: Provenance | None = None


def front_matter(entries: Mapping[str, object]) -> list[str]:
    """The lines between ``---`` that model hubs read; entries that are None are left out."""
    kept = {name: value for name, value in entries.items() if value is not None}
    return ["---", *yaml.safe_dump(kept, sort_keys=False, allow_unicode=True).splitlines(), "---"]


def licence_entries(licence: str | None) -> dict[str, str]:
    """How the Hub wants a licence written: its own identifier, or ``other`` with a name; it refuses a card with anything else."""
    if not licence:
        return {}
    if licence.lower() in _HUB_LICENCES:
        return {"license": licence.lower()}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")}


def licence_words(provenance: Provenance | None) -> str:
    """What a card says of the right to use weights that were trained here, or that somebody published."""
    if provenance is None:
        return LICENCE
    told = (
        f"Their licence is {provenance.licence}." if provenance.licence else "Their licence is not stated there: ask."
    )
    return (
        f"These weights were published by others ({provenance.name or provenance.source}) and converted by openjepa, which "
        f"claims no right in them. {told}"
    )


def render_card(recipe: Recipe, card: ModelCard, files: Mapping[str, str], architecture: Mapping[str, object]) -> str:
    """The card as Markdown with the front matter model hubs read. files: name → what is in it."""
    data = card.data or recipe.data.source or "not recorded"
    trained = " · ".join(
        f"{number:,} {unit}"
        for number, unit in ((card.step, "steps"), (card.samples, "images seen"))
        if number is not None
    )
    origin, (kind, patch, takes, use) = card.provenance, _input_words(recipe)
    about = {
        **licence_entries(None if origin is None else origin.licence),
        "library_name": "openjepa",
        "tags": ["jepa", "self-supervised", f"{kind.replace(' ', '-')}-feature-extraction"],
    }
    lines = [
        *front_matter(about),
        "",
        f"# {recipe.name if origin is None else origin.name or recipe.name}",
        "",
        f"An encoder of {kind}s pretrained with openjepa, system `{recipe.system}`, recipe `{recipe.name}` ({recipe.form}), "
        f"seed {recipe.seed}."
        if origin is None
        else f"An encoder of {kind}s, system `{recipe.system}`: {origin}.",
        "",
        "| | |",
        "|---|---|",
        f"| encoder | {architecture['parameters']:,} parameters, width {architecture['embed_dim']}, "
        f"depth {architecture['depth']}, {architecture['heads']} heads{patch} |",
        f"| input | {takes} |",
        f"| data | {data} |",
        f"| trained | {trained or 'not recorded'} |",
        f"| health | {card.verdict or 'not judged'} |",
        *(f"| {name} | {100 * value:.1f} % |" for name, value in card.scores.items() if math.isfinite(value)),
        "",
        *(f"{note}\n" for note in (*card.notes, *(origin.notes if origin else ()))),
        "```python",
        "import openjepa",
        "",
        'model = openjepa.load("path/to/this/folder")',
        use,
        "```",
        "",
        "| file | content |",
        "|---|---|",
        *(f"| `{name}` | {what} |" for name, what in files.items()),
        "",
        "## Licence",
        "",
        licence_words(origin),
        "",
    ]
    return "\n".join(lines)


def _input_words(recipe: Recipe) -> tuple[str, str, str, str]:
    """What an encoder is of, its patch, what it takes, and a line of Python that uses it."""
    (height, width), points = recipe.image_hw, recipe.data.points
    if points is not None:
        takes = f"{points.groups} groups of {points.group_size} points, each behind its centre (other numbers work)"
        return (
            "point cloud",
            "",
            takes,
            "features = model.encoder.forward_features(openjepa.models.pack_groups(groups, centres))",
        )
    kind, clip = ("image", "") if recipe.frames is None else ("video", f"{recipe.frames} frames, ")
    takes = f"{recipe.data.channels} channels, {clip}{height} × {width} px (other sizes work)"
    return kind, f", patch {recipe.model.patch_size} px", takes, "features = model.embed(paths)"
