"""The catalogue: names are unique, parameters are those of the architecture, licences are said, sources are addresses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from urllib.parse import urlsplit

import pytest

from openjepa.errors import ConfigError
from openjepa.hub.catalogue import UNKNOWN, Published, choose_source, families, find, lookup, published
from openjepa.hub.imports import HINTS, layouts
from tests.unit.hub.imports.published import encoder, predictor

ENTRIES = {entry.name: entry for entry in published()}
OURS = [
    e
    for e in published()
    if e.family.startswith(("I-JEPA", "V-JEPA")) and e.family not in ("V-JEPA 2.1", "V-JEPA 2-AC")
]


def count(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def block(dim: int, hidden: int, biases: int = 4) -> int:
    """Attention (q, k, v, projection), MLP and two norms."""
    return 4 * dim * dim + biases * dim + 2 * dim * hidden + hidden + dim + 4 * dim


def encoder_parameters(entry: Published) -> int:
    e = entry.encoder
    dim, patch, tubelet = e["dim"], e["patch"], e.get("tubelet", 1)
    total = 3 * tubelet * patch**2 * dim + dim
    total += e["depth"] * block(dim, e["hidden"], 4 if e.get("key_bias", True) else 3)
    total += 2 * dim * e.get("taps", 1) if e.get("final_norm", True) else 0
    total += dim if e.get("class_token") else 0
    return total + (3 * patch**2 * dim + dim + 2 * dim if "taps" in e else 0)  # a stem for images, two embeddings


def predictor_parameters(entry: Published) -> int:
    p, dim = entry.predictor, entry.encoder["dim"]
    width = p["dim"]
    total = p["depth"] * block(width, 4 * width) + 2 * width
    if p.get("kind") == "action_causal":  # actions and states of 7, extrinsics of 6 numbers
        return total + dim * width + width + 2 * (8 * width) + 7 * width + width * dim + dim
    total += p["mask_tokens"] * width
    if "levels" not in p:
        return total + dim * width + width + width * dim + dim
    out = p.get("out_dim", dim) * p["levels"]
    inside = dim * width + width if p["levels"] == 1 else 4 * dim * dim + dim + dim * width + width
    return total + inside + 2 * (width * out + out) + 2 * width  # two heads, two modality embeddings


def test_names_aliases_and_repositories_mean_one_model_each() -> None:
    names = [n for entry in published() for n in {entry.name, *entry.aliases, *(s.where for s in entry.sources)}]
    assert sorted(names) == sorted(set(names))
    for entry in published():
        for name in (entry.name, *entry.aliases):
            assert find(name) is entry
            assert "@" not in name
            assert ":" not in name
    assert find("VJEPA2-ViTL-256") is ENTRIES["vjepa2-vitl-256"]
    assert find("facebook/ijepa_vith14_1k") is ENTRIES["ijepa-vith14-1k"]
    assert find("vjepa2.1-vitg").size == "ViT-g/16"  # type: ignore[union-attr]
    assert find("vjepa2.1-vitG").size == "ViT-G/16"  # type: ignore[union-attr]
    assert find("VJEPA2.1-VITG") is None  # either
    assert find("") is None


def test_every_published_file_of_the_references_is_there() -> None:
    files = {source.where for entry in published() for source in entry.sources}
    assert {urlsplit(name).path for name in files if name.startswith("https")} == {
        "/ijepa/IN1K-vit.h.14-300e.pth.tar",
        "/ijepa/IN1K-vit.h.16-448px-300e.pth.tar",
        "/ijepa/IN22K-vit.h.14-900e.pth.tar",
        "/ijepa/IN22K-vit.g.16-600e.pth.tar",
        "/jepa/vitl16/vitl16.pth.tar",
        "/jepa/vith16/vith16.pth.tar",
        "/jepa/vith16-384/vith16-384.pth.tar",
        *(f"/vjepa2/{name}.pt" for name in ("vitl", "vith", "vitg", "vitg-384", "vjepa2-ac-vitg")),
        *(f"/vjepa2/vjepa2_1_{name}_384.pt" for name in ("vitb_dist_vitG", "vitl_dist_vitG", "vitg", "vitG")),
    }
    hf = {name for name in files if not name.startswith("https")}
    assert {f"facebook/ijepa_{name}" for name in ("vith14_1k", "vith14_22k", "vith16_1k", "vitg16_22k")} <= hf
    assert {f"facebook/vjepa2-{name}" for name in ("vitl-fpc64-256", "vith-fpc64-256", "vitg-fpc64-256")} <= hf
    assert {f"facebook/vjepa2-vit{name}" for name in ("l-fpc16-256-ssv2", "g-fpc32-384-diving48")} <= hf
    probes = [probe.url for entry in published() for probe in entry.probes]
    assert len(probes) == len(set(probes)) == 3 * 5 + 6
    assert all(
        source.encoders == ("ema_encoder",)
        for e in published()
        for s in e.sources
        if "_dist_" in s.where
        for source in [s]
    )


@pytest.mark.parametrize("name", [e.name for e in published() if "hidden" in e.encoder])
def test_parameters_are_those_of_the_architecture(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.parameters == encoder_parameters(entry)
    assert entry.predictor_parameters == (predictor_parameters(entry) if entry.predictor else 0)


@pytest.mark.parametrize("name", [entry.name for entry in OURS])
def test_parameters_are_those_of_the_published_names_and_shapes(name: str) -> None:
    entry = ENTRIES[name]
    e, p = entry.encoder, entry.predictor
    shapes = encoder(e["dim"], e["depth"], e["hidden"], e["patch"], tubelet=e.get("tubelet"), tokens=None)
    assert entry.parameters == count(shapes.values())
    tokens = None if entry.family == "I-JEPA" else p["mask_tokens"]
    assert entry.predictor_parameters == count(
        predictor(e["dim"], p["depth"], p["dim"], mask_tokens=tokens, tokens=None).values()
    )


def test_the_references_own_totals() -> None:
    """official.md §1.1 and §6.2, in millions."""
    assert [
        round(ENTRIES[n].parameters / 1e6, 2) for n in ("vjepa2-vitl-256", "vjepa-vith-224", "vjepa2-vitg-256")
    ] == [
        303.89,
        631.65,
        1012.17,
    ]
    assert [
        round(ENTRIES[n].parameters / 1e6, 2) for n in ("ijepa-vith14-1k", "ijepa-vith16-448-1k", "ijepa-vitg16-22k")
    ] == [
        630.43,
        630.66,
        1011.09,
    ]
    names = ("ijepa-vith14-1k", "ijepa-vitg16-22k", "vjepa-vitl-224", "vjepa2-vitl-256", "vjepa2-vitg-256")
    assert [round(ENTRIES[n].predictor_parameters / 1e6, 2) for n in names] == [22.28, 29.48, 22.08, 22.09, 22.38]
    assert round(ENTRIES["vjepa2-ac-vitg-256"].predictor_parameters / 1e6, 1) == 305.2


def test_parameters_of_encoders_to_compare_with() -> None:
    """As transformers and timm build them, on the meta device; timm has a mask token less."""
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    names = {
        e.name: f"vit_{s}_patch{e.encoder['patch']}_{e.family.lower()}"
        for e in published()
        for s in [_timm_size(e)]
        if s
    }
    assert len(names) == 9
    with torch.device("meta"):
        for name, theirs in names.items():
            network = timm.create_model(theirs, pretrained=False, num_classes=0)
            total = sum(p.numel() for p in network.parameters())
            assert ENTRIES[name].parameters == pytest.approx(total, rel=1e-4)
            assert ENTRIES[name].encoder["dim"] == network.embed_dim
            assert ENTRIES[name].encoder["depth"] == len(network.blocks)


def _timm_size(entry: Published) -> str | None:
    sizes = {
        "ViT-S": "small",
        "ViT-B": "base",
        "ViT-L": "large",
        "ViT-g": "giant",
        "ViT-H+": "huge_plus",
        "ViT-7B": "7b",
    }
    return sizes[entry.size.split("/")[0]] if entry.family.startswith("DINO") else None


def test_reconstruction_models_have_as_many_parameters_in_transformers() -> None:
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    with torch.device("meta"):
        for name, kind in (
            ("mae-vitb16-224", "ViTMAE"),
            ("mae-vith14-224", "ViTMAE"),
            ("videomae-vitl-224", "VideoMAE"),
        ):
            e = ENTRIES[name].encoder
            config = getattr(transformers, f"{kind}Config")(
                hidden_size=e["dim"],
                num_hidden_layers=e["depth"],
                num_attention_heads=e["heads"],
                intermediate_size=e["hidden"],
                patch_size=e["patch"],
            )
            network = getattr(transformers, f"{kind}Model")(config)
            assert ENTRIES[name].parameters == sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_licences_are_those_of_the_references_or_unknown() -> None:
    said = {family: {(e.licence, e.commercial) for e in published() if e.family == family} for family in families()}
    assert said == {
        "I-JEPA": {("CC-BY-NC-4.0", False)},
        "V-JEPA": {("CC-BY-NC-4.0", False)},
        "V-JEPA 2": {("MIT", True)},
        "V-JEPA 2-AC": {("MIT", True)},
        "V-JEPA 2.1": {("MIT", True)},
        "MAE": {(UNKNOWN, None)},
        "VideoMAE": {(UNKNOWN, None)},
        "DINOv2": {("Apache-2.0", True)},
        "DINOv3": {("DINOv3 License (custom, gated)", None)},
    }
    assert ENTRIES["ijepa-vith14-1k"].use() == "CC-BY-NC-4.0: not for commercial use"
    assert ENTRIES["mae-vitb16-224"].use() == "unknown: read the terms before any use"
    assert ENTRIES["vjepa2-vitl-256"].use() == "MIT"


@pytest.mark.parametrize("entry", published(), ids=lambda entry: entry.name)
def test_every_entry_says_what_a_user_needs(entry: Published) -> None:
    assert entry.resolution % entry.encoder["patch"] == 0
    assert entry.encoder["dim"] % entry.encoder["heads"] == 0
    assert entry.frames is None or "tubelet" in entry.encoder
    assert entry.sources
    assert entry.licence_from
    assert entry.paper.startswith("arXiv ")
    assert all(source.where.startswith("https://") for source in entry.sources if source.kind == "official")
    assert all(source.where.count("/") == 1 for source in entry.sources if source.kind == "hf")
    assert set(entry.hints) <= set(HINTS)
    assert entry.to_json()["name"] == entry.name


def test_hints_name_families_that_can_be_imported() -> None:
    known = {layout.family for layout in layouts()}
    assert {entry.hints["family"] for entry in OURS} <= known


def test_sources_can_be_chosen() -> None:
    entry = lookup("vjepa2-vitl")
    assert str(choose_source(entry)) == "hf:facebook/vjepa2-vitl-fpc64-256"
    assert choose_source(entry, "official").where.endswith("/vjepa2/vitl.pt")
    with pytest.raises(
        ConfigError, match=r"has no source 'offical' \(did you mean 'official'\?\): there is hf, official"
    ):
        choose_source(entry, "offical")
    with pytest.raises(ConfigError, match=r"no published model 'dinov2-vitb16' \(did you mean"):
        lookup("dinov2-vitb16")
