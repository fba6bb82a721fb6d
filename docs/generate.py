"""Write the reference pages that come from the code: recipe keys, recipes, published models. ``make docs`` runs it before the site is built."""

from __future__ import annotations

import sys
from pathlib import Path

from openjepa.config import KeyInfo, describe_schema, list_recipes
from openjepa.config.text import shown
from openjepa.hub.catalogue import families, published

HERE = Path(__file__).resolve().parent / "reference"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _row(info: KeyInfo) -> str:
    default = "required" if info.required else f"`{shown(info.default)}`"
    when = f" Only with `{info.when}`." if info.when else ""
    return f"| `{info.key}` | {_cell(info.type)} | {default} | {_cell(info.description)}.{when} |"


def keys_page() -> str:
    """Every recipe key by section, from the schema."""
    lines = [
        "# Recipe keys",
        "",
        "Generated from `openjepa/config/schema.py`. The same table: `openjepa recipes keys`.",
        "",
    ]
    table = ["| key | value | default | meaning |", "|---|---|---|---|"]
    lines += table
    for info in describe_schema():
        if info.section:
            lines += ["", f"## {info.key}", "", info.description, "", *table]
        else:
            lines.append(_row(info))
    return "\n".join(lines) + "\n"


def recipes_page() -> str:
    """Every recipe that ships, with its header."""
    lines = [
        "# Recipes",
        "",
        "`openjepa recipes show NAME` prints a whole recipe, `openjepa recipes diff A B` compares two.",
        "",
    ]
    for info in list_recipes():
        lines += [f"## {info.name}", "", f"Form: `{info.form}`.", "", "```text", info.header, "```", ""]
    return "\n".join(lines)


def models_page() -> str:
    """Every published model, system by system."""
    lines = [
        "# Published models",
        "",
        "`openjepa models list` prints this table, `openjepa models show NAME` all that is known of one. Names and aliases go",
        "into `openjepa.load`; see [Published weights](../how-to/published-weights.md). `unknown`: our references name no licence.",
    ]
    for family in families():
        found = [entry for entry in published() if entry.family == family]
        lines += ["", f"## {family}", "", f"{_cell(found[0].about)} ({found[0].paper}).", ""]
        lines += ["| name | size | parameters | input | licence | sources | aliases |", "|---|---|---|---|---|---|---|"]
        for entry in found:
            more = f" + {entry.predictor_parameters / 1e6:.1f}" if entry.predictor_parameters else ""
            size = f"{entry.resolution} px" + (f", {entry.frames} frames" if entry.frames else "")
            where = "<br>".join(f"`{source}`" for source in entry.sources)
            names = ", ".join(f"`{name}`" for name in entry.aliases)
            cells = (
                f"`{entry.name}`",
                entry.size,
                f"{entry.parameters / 1e6:,.1f}{more} M",
                size,
                entry.use(),
                where,
                names,
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the pages; returns 0."""
    HERE.mkdir(exist_ok=True)
    (HERE / "keys.md").write_text(keys_page(), encoding="utf-8")
    (HERE / "recipes.md").write_text(recipes_page(), encoding="utf-8")
    (HERE / "models.md").write_text(models_page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
