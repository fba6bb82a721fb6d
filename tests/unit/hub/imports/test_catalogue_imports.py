"""Every official file of the catalogue, by its published names at its true size, imports with the catalogue's hints alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from openjepa.hub.catalogue import Published, published
from openjepa.hub.imports import Contents, import_contents
from tests.unit.hub.imports import published as names
from tests.unit.hub.imports import test_ac as ac
from tests.unit.hub.imports import test_v21 as v21

OFFICIAL = {entry.name: entry for entry in published() if any(source.kind == "official" for source in entry.sources)}


def tensors_of(entry: Published) -> dict[str, Tensor]:
    """As the authors' file has them, on the meta device."""
    e, p = entry.encoder, entry.predictor
    if entry.family == "V-JEPA 2.1":
        shapes = v21.encoder(e["dim"], e["depth"], e["hidden"])
        slow = entry.default.encoders[0]
        return names.whole(
            "module.backbone.", {slow: shapes, "predictor": v21.predictor(e["dim"], p["depth"], p["levels"])}
        )
    fixed = entry.family in ("I-JEPA", "V-JEPA")
    tubelets = entry.frames // e["tubelet"] if entry.frames else 1
    tokens = tubelets * (entry.resolution // e["patch"]) ** 2 if fixed else None
    shapes = names.encoder(e["dim"], e["depth"], e["hidden"], e["patch"], tubelet=e.get("tubelet"), tokens=tokens)
    if entry.family == "V-JEPA 2-AC":
        return names.whole("module.", {"encoder": shapes, "predictor": ac.foresight(e["dim"], p["dim"], p["depth"])})
    masks = None if entry.family == "I-JEPA" else p["mask_tokens"]
    parts = names.three(shapes, names.predictor(e["dim"], p["depth"], p["dim"], mask_tokens=masks, tokens=tokens))
    return names.whole("module." if entry.family == "I-JEPA" else "module.backbone.", parts)


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_file_is_what_the_catalogue_says(name: str) -> None:
    entry = OFFICIAL[name]
    loaded = import_contents(Contents(Path("published.pt"), tensors_of(entry), hints=entry.hints))
    made = loaded.encoder
    assert (made.embed_dim, made.depth, made.heads) == tuple(entry.encoder[key] for key in ("dim", "depth", "heads"))
    assert sum(p.numel() for p in made.parameters()) == entry.parameters
    assert loaded.predictor is not None
    assert sum(p.numel() for p in loaded.predictor.parameters()) == entry.predictor_parameters
    assert loaded.config.image_hw == (entry.resolution, entry.resolution)
    assert loaded.config.frames == entry.frames
    assert loaded.provenance is not None
    official = next(source for source in entry.sources if source.kind == "official")
    assert loaded.provenance.which == official.encoders[0]
