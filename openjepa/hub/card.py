"""The model card: the README.md that travels with weights, written for the person who finds them in a year."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from openjepa.config.schema import Recipe

LICENCE = (
    "These weights were made by the person who ran the training, and they are theirs: openjepa (Apache-2.0) claims no "
    "right in them. What the training data allows still holds."
)


@dataclass(frozen=True)
class ModelCard:
    """What a card says beside the recipe.

    step: finished optimizer steps. samples: images seen. data: what it was trained on, in words; none: the recipe's
    source. verdict: the health verdict in words. scores: name → share in 0..1 (``{"knn": 0.41}``). notes: sentences.
    """

    step: int | None = None
    samples: int | None = None
    data: str | None = None
    verdict: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def render_card(recipe: Recipe, card: ModelCard, files: Mapping[str, str], architecture: Mapping[str, object]) -> str:
    """The card as Markdown with the front matter model hubs read. files: name → what is in it."""
    height, width = recipe.image_hw
    data = card.data or recipe.data.source or "not recorded"
    trained = " · ".join(
        f"{number:,} {unit}"
        for number, unit in ((card.step, "steps"), (card.samples, "images seen"))
        if number is not None
    )
    lines = [
        "---",
        "library_name: openjepa",
        "tags: [jepa, self-supervised, image-feature-extraction]",
        "---",
        "",
        f"# {recipe.name}",
        "",
        f"An image encoder pretrained with openjepa, system `{recipe.system}`, recipe `{recipe.name}` ({recipe.form}), "
        f"seed {recipe.seed}.",
        "",
        "| | |",
        "|---|---|",
        f"| encoder | {architecture['parameters']:,} parameters, width {architecture['embed_dim']}, "
        f"depth {architecture['depth']}, {architecture['heads']} heads, patch {recipe.model.patch_size} px |",
        f"| input | {recipe.data.channels} channels, {height} × {width} px (other sizes work) |",
        f"| data | {data} |",
        f"| trained | {trained or 'not recorded'} |",
        f"| health | {card.verdict or 'not judged'} |",
        *(f"| {name} | {100 * value:.1f} % |" for name, value in card.scores.items() if math.isfinite(value)),
        "",
        *(f"{note}\n" for note in card.notes),
        "```python",
        "import openjepa",
        "",
        'model = openjepa.load("path/to/this/folder")',
        "features = model.embed(paths)",
        "```",
        "",
        "| file | content |",
        "|---|---|",
        *(f"| `{name}` | {what} |" for name, what in files.items()),
        "",
        "## Licence",
        "",
        LICENCE,
        "",
    ]
    return "\n".join(lines)
