"""The video recipes that ship: every value of the published tables (official.md §5.3, family.md §6)."""

from __future__ import annotations

import pytest

from openjepa.config import Duration, Recipe, diff_recipes, list_recipes, load_recipe, stage_recipes

STEPS = "steps"
SIZES = {  # official.md §5.3: arch, image, global batch, token grid
    "vjepa-vitl16": ("vit_large", 224, 3072, (8, 14, 14)),
    "vjepa-vith16": ("vit_huge", 224, 3072, (8, 14, 14)),
    "vjepa-vith16-384": ("vit_huge", 384, 2400, (8, 24, 24)),
}
SIZES_2 = {  # arch, heads, grid of the constant phase, grid of the cooldown
    "vjepa2-vitl16": ("vit_large", None, (8, 16, 16), (32, 16, 16)),
    "vjepa2-vith16": ("vit_huge", None, (8, 16, 16), (32, 16, 16)),
    "vjepa2-vitg16": ("vit_giant", 22, (8, 16, 16), (32, 16, 16)),
    "vjepa2-vitg16-384": ("vit_giant", 22, (8, 16, 16), (32, 24, 24)),
}
FORMS = ("paper", "release")
VIDEO = [info.name for info in list_recipes() if info.system in ("vjepa", "vjepa2", "videomae")]


def changed(a: Recipe, b: Recipe) -> set[str]:
    return {key for key, _, _ in diff_recipes(a, b)}


def test_all_video_recipes_of_the_plan_exist() -> None:
    sized = {f"{name}-{form}" for name in (*SIZES, *SIZES_2) for form in FORMS}
    small = {f"{system}-{form}" for system in ("vjepa", "vjepa2", "videomae") for form in ("tiny", "vits16-1gpu")}
    videomae = {"videomae-vitb16-k400-paper", "videomae-vitb16-ssv2-paper"}
    assert set(VIDEO) == sized | small | videomae | {"vjepa-vitl16-document"}


@pytest.mark.parametrize("name", VIDEO)
def test_every_stage_of_every_video_recipe_is_one_for_video(name: str) -> None:
    for stage in stage_recipes(load_recipe(name)):
        assert stage.video
        assert stage.inputs == {"video": (stage.frames, *stage.image_hw)}
        assert stage.system == name.partition("-")[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SIZES)
def test_vjepa_holds_the_published_table(name: str, form: str) -> None:
    r, (arch, image, batch, grid) = load_recipe(f"{name}-{form}"), SIZES[name]
    assert (r.form, r.model.arch, r.data.image_size, r.train.batch_size, r.grid) == (form, arch, image, batch, grid)
    assert (r.data.clip.frames, r.data.clip.stride, r.data.clip.fps) == (16, 4, None)  # type: ignore[union-attr]
    assert (r.train.length, r.optim.warmup, r.seed) == (Duration(90_000, STEPS), Duration(12_000, STEPS), 234)
    assert (r.optim.start_lr, r.optim.lr, r.optim.final_lr, r.optim.stretch) == (2e-4, 6.25e-4, 1e-6, 1.25)
    assert (r.optim.weight_decay, r.optim.final_weight_decay) == (0.04, 0.4)
    assert (r.target.momentum, r.target.momentum_schedule) == ((0.998, 1.0), "linear")
    check_common(r)
    assert (r.model.positions, r.model.uniform_power, r.model.init) == ("sincos3d", True, "ijepa")
    assert r.predictor.heads is None  # type: ignore[union-attr]
    assert r.optim.clip == (10.0 if form == "release" else None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SIZES_2)
def test_vjepa2_holds_the_published_table_stage_by_stage(name: str, form: str) -> None:
    whole, (arch, heads, first, last) = load_recipe(f"{name}-{form}"), SIZES_2[name]
    assert [stage.name for stage in whole.stages] == ["constant", "cooldown"]
    assert all(stage.keep_optimizer for stage in whole.stages)
    constant, cooldown = stage_recipes(whole)
    assert (constant.grid, cooldown.grid, cooldown.frames) == (first, last, 64)
    for r in (constant, cooldown):
        check_common(r)
        assert (r.model.arch, r.model.heads, r.model.positions) == (arch, heads, "rope3d")
        assert (r.data.clip.fps, r.data.clip.stride, r.seed) == (4.0, None, 239)  # type: ignore[union-attr]
        assert (r.train.batch_size, r.train.activation_checkpointing, r.optim.clip) == (3072, True, None)
        assert (r.target.momentum, r.target.momentum_schedule) == ((0.99925, 0.99925), "constant")
        assert (r.optim.weight_decay, r.optim.final_weight_decay, r.predictor.heads) == (0.04, None, 12)  # type: ignore[union-attr]
        assert (r.optim.lr, r.optim.stretch) == (5.25e-4, 1.25)
        assert r.model.init == "vjepa2"
    assert (constant.optim.schedule, constant.optim.start_lr, constant.optim.warmup) == (
        "constant",
        1e-4,
        Duration(12_000, STEPS),
    )
    assert (cooldown.optim.schedule, cooldown.optim.final_lr, cooldown.optim.warmup) == (
        "linear",
        1e-6,
        Duration(0, STEPS),
    )
    assert (constant.train.length, cooldown.train.length) == (Duration(240_000, STEPS), Duration(12_000, STEPS))


def check_common(r: Recipe) -> None:
    """What V-JEPA and V-JEPA 2 share."""
    augment = r.data.augment
    assert (augment.crop_scale, augment.crop_ratio, augment.flip, augment.color_jitter) == (
        (0.3, 1.0),
        (0.75, 1.35),
        0.5,
        0,
    )
    assert (r.objective.kind, r.objective.reduction, r.objective.variance) == ("l1", "pair", 0.0)
    assert (r.target.transform, r.model.patch_size, r.model.tubelet_size) == ("layer_norm", 16, 2)
    assert r.mask.kind == "tubes"
    groups = [(g.blocks, g.spatial_scale, g.temporal_scale, g.aspect, g.keep_time, g.max_keep) for g in r.mask.groups]
    rest = ((1.0, 1.0), (0.75, 1.5), 1.0, None)
    assert groups == [(8, (0.15, 0.15), *rest), (2, (0.7, 0.7), *rest)]
    assert (r.predictor.kind, r.predictor.dim, r.predictor.depth, r.predictor.mlp_ratio) == ("narrow", 384, 12, 4.0)
    assert (r.optim.betas, r.optim.eps, r.train.precision) == ((0.9, 0.999), 1e-8, "bf16")
    release = r.form == "release"
    assert r.mask.context_mode == ("release" if release else "padded")
    assert (r.optim.decay_mask_tokens, r.predictor.mask_token_init) == (release, "zero" if release else "normal")


@pytest.mark.parametrize("name", SIZES)
def test_vjepa_text_and_code_differ_only_where_the_header_says(name: str) -> None:
    said = {
        "mask.context_mode",
        "predictor.mask_tokens",
        "predictor.mask_token_init",
        "optim.clip",
        "optim.decay_mask_tokens",
    }
    assert changed(load_recipe(f"{name}-paper"), load_recipe(f"{name}-release")) == said | {"name", "form"}


@pytest.mark.parametrize("name", SIZES_2)
def test_vjepa2_text_and_code_differ_only_where_the_header_says(name: str) -> None:
    said = {"mask.context_mode", "model.rope_pairing", "optim.decay_mask_tokens"}
    said |= {f"predictor.{key}" for key in ("mask_tokens", "mask_token_index", "mask_token_init")}
    paper, release = load_recipe(f"{name}-paper"), load_recipe(f"{name}-release")
    assert changed(paper, release) == said | {"name", "form"}
    assert (release.predictor.mask_tokens, release.predictor.mask_token_index) == (10, "release")  # type: ignore[union-attr]
    assert release.model.rope_pairing == "tiled"


def test_the_header_of_vjepa2_says_that_its_yamls_are_stubs() -> None:
    header = next(info.header for info in list_recipes() if info.name == "vjepa2-vitl16-release")
    assert "do not reproduce the released weights" in header
    assert "trap 37" in header


def test_the_document_variant_of_vjepa_is_one_target_set() -> None:
    document, paper = load_recipe("vjepa-vitl16-document"), load_recipe("vjepa-vitl16-paper")
    assert changed(document, paper) == {"name", "form", "mask.union"}
    assert document.mask.union  # type: ignore[union-attr]


def test_videomae_holds_the_published_table() -> None:
    r = load_recipe("videomae-vitb16-k400-paper")
    assert (r.method, r.model.arch, r.grid) == ("masked_pixel", "vit_base", (8, 14, 14))
    assert (r.mask.kind, r.mask.ratio) == ("random_tube", 0.9)  # type: ignore[union-attr]
    assert (r.predictor.kind, r.predictor.dim, r.predictor.depth, r.predictor.heads) == ("pixel", 384, 4, 6)  # type: ignore[union-attr]
    assert (r.target.kind, r.target.transform, r.objective.kind) == ("pixels", "layer_norm", "l2")
    assert (r.data.clip.frames, r.data.clip.stride) == (16, 4)  # type: ignore[union-attr]
    assert r.optim.lr == pytest.approx(1.5e-4 * r.train.batch_size / 256)
    assert (r.optim.betas, r.optim.weight_decay, r.train.length) == ((0.9, 0.95), 0.05, Duration(800, "epochs"))
    ssv2 = load_recipe("videomae-vitb16-ssv2-paper")
    assert changed(r, ssv2) == {"name", "data.clip.stride", "data.augment.flip", "train.length"}


def test_the_tiny_recipes_are_compared_on_equal_terms() -> None:
    vjepa, pixel = load_recipe("vjepa-tiny"), load_recipe("videomae-tiny")
    assert vjepa.data == pixel.data
    assert vjepa.train == pixel.train
    assert changed(vjepa, pixel).isdisjoint({"model.dim", "model.depth", "model.heads", "model.patch_size", "optim.lr"})
