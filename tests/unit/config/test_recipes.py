"""The recipes that ship: every value of the published tables, and headers that keep their promise."""

from __future__ import annotations

import re

import pytest

from openjepa.config import Duration, Recipe, build_recipe, diff_recipes, dump_recipe, list_recipes, load_recipe
from openjepa.config.text import parse_yaml

NAMES = [info.name for info in list_recipes()]
PUBLISHED = {  # official.md §5.3: image, patch, arch, grid, predictor depth, epochs, warm-up epochs, checkpoint multiples
    "ijepa-vith14-in1k": (224, 14, "vit_huge", 16, 12, 300, 40),
    "ijepa-vith16-448-in1k": (448, 16, "vit_huge", 28, 12, 300, 40),
    "ijepa-vith14-in22k": (224, 14, "vit_huge", 16, 12, 66, 3),
    "ijepa-vitg16-in22k": (224, 16, "vit_giant", 14, 16, 44, 3),
}
EPOCHS = "epochs"


def changed(a: Recipe, b: Recipe) -> set[str]:
    return {key for key, _, _ in diff_recipes(a, b)}


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_loads_under_its_own_name_and_survives_a_dump(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert build_recipe(parse_yaml(dump_recipe(recipe), name)) == recipe


@pytest.mark.parametrize("info", list_recipes(), ids=NAMES)
def test_every_header_states_command_hardware_time_score_and_source(info: object) -> None:
    header, name = info.header, info.name  # type: ignore[attr-defined]
    for field in ("command", "hardware", "time", "score", "source"):
        lines = [line for line in header.splitlines() if re.match(rf"{field}: +\S", line)]
        assert len(lines) == 1, f"{name}: {field}"
    assert "pretrain" in header
    assert f"--recipe {name}" in header


def test_all_recipes_of_the_plan_exist() -> None:
    published = {f"{name}-{form}" for name in PUBLISHED for form in ("paper", "release")}
    assert published | {"ijepa-tiny", "ijepa-tiny-release", "ijepa-vits16-1gpu", "ijepa-vith14-in1k-document"} == {
        name for name in NAMES if name.startswith("ijepa")
    }


@pytest.mark.parametrize("form", ["paper", "release"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_hold_the_published_tables(name: str, form: str) -> None:
    r = load_recipe(f"{name}-{form}")
    image, patch, arch, grid, predictor_depth, epochs, warmup = PUBLISHED[name]
    assert (r.form, r.data.image_size, r.model.patch_size, r.model.arch, r.grid) == (
        form,
        image,
        patch,
        arch,
        (grid, grid),
    )
    assert (r.predictor.dim, r.predictor.depth, r.predictor.heads, r.predictor.mlp_ratio) == (
        384,
        predictor_depth,
        None,
        4.0,
    )
    assert (r.train.batch_size, r.train.length, r.train.precision) == (2048, Duration(epochs, EPOCHS), "bf16")
    assert (r.optim.lr, r.optim.final_lr, r.optim.schedule, r.optim.stretch) == (1e-3, 1e-6, "cosine", 1.0)
    assert (r.optim.weight_decay, r.optim.final_weight_decay, r.optim.clip) == (0.04, 0.4, None)
    assert (r.optim.betas, r.optim.eps) == ((0.9, 0.999), 1e-8)
    assert (r.target.momentum, r.target.momentum_schedule, r.target.transform) == ((0.996, 1.0), "linear", "layer_norm")
    augment = r.data.augment
    assert (augment.random_resized_crop, augment.crop_scale, augment.crop_ratio) == (True, (0.3, 1.0), (3 / 4, 4 / 3))
    assert (augment.flip, augment.color_jitter, augment.grayscale, augment.blur) == (0, 0, 0, 0)
    assert (r.data.interpolation, r.data.workers) == ("bilinear", 10)
    mask = r.mask
    assert (mask.kind, mask.targets, mask.target_scale, mask.target_aspect) == (
        "multiblock",
        4,
        (0.15, 0.2),
        (0.75, 1.5),
    )
    assert (mask.context_scale, mask.min_keep, mask.overlap) == ((0.85, 1.0), 10, False)
    assert (r.model.positions, r.model.position_order, r.model.init) == ("sincos2d", "column_first", "ijepa")
    if form == "release":
        assert (mask.context_mode, mask.borders, mask.size_draw) == ("release", "release", "release")
        assert (r.objective.kind, r.objective.beta, r.optim.decay_mask_tokens) == ("smooth_l1", 1.0, True)
        assert (r.optim.start_lr, r.optim.warmup) == (2e-4, Duration(warmup, EPOCHS))
    else:
        assert (mask.context_mode, mask.borders, mask.size_draw) == ("padded", "full", "independent")
        assert (r.objective.kind, r.optim.decay_mask_tokens) == ("l2", False)
        assert (r.optim.start_lr, r.optim.warmup) == (1e-4, Duration(15 if epochs == 300 else 3, EPOCHS))


@pytest.mark.parametrize("name", PUBLISHED)
def test_paper_and_release_differ_only_where_text_and_code_do(name: str) -> None:
    differs = changed(load_recipe(f"{name}-paper"), load_recipe(f"{name}-release"))
    said = {"name", "form", "mask.context_mode", "mask.borders", "mask.size_draw", "objective.kind", "optim.start_lr"}
    assert differs - {"optim.warmup"} == said | {"optim.decay_mask_tokens"}


def test_the_document_variant_is_squared_l2_learned_positions_and_no_random_crop() -> None:
    document, paper = load_recipe("ijepa-vith14-in1k-document"), load_recipe("ijepa-vith14-in1k-paper")
    assert (document.objective.kind, document.model.positions) == ("l2", "learned")
    assert document.data.augment.random_resized_crop is False
    assert changed(document, paper) == {"name", "form", "model.positions", "data.augment.random_resized_crop"}


def test_tiny_release_is_the_published_algorithm_at_the_size_of_tiny() -> None:
    tiny, release = load_recipe("ijepa-tiny"), load_recipe("ijepa-tiny-release")
    published = load_recipe("ijepa-vith14-in1k-release")
    assert (release.model.dim, release.model.depth, release.model.heads, release.model.patch_size) == (192, 6, 3, 4)
    assert (release.predictor.dim, release.predictor.depth, release.image_hw, release.grid) == (96, 3, (32, 32), (8, 8))
    assert (release.train.batch_size, release.data.augment.flip) == (128, 0.5)
    assert (release.optim.start_lr, release.optim.warmup) == (1e-4, Duration(10, "percent"))
    assert release.mask == published.mask
    assert (release.target, release.objective) == (published.target, published.objective)
    rest = {"optim.start_lr", "optim.warmup"}
    assert {key for key in changed(release, published) if key.startswith("optim.")} == rest
    sizes = ("arch", "dim", "depth", "heads")  # the patch of ijepa-tiny is coarser: more images in the same time
    assert all(getattr(tiny.model, key) == getattr(release.model, key) for key in sizes)
    assert (tiny.data.image_size, tiny.predictor.dim) == (release.data.image_size, release.predictor.dim)
