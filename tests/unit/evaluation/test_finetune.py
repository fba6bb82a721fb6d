"""Fine-tuning: rates by depth, stochastic depth, a copy that is trained and an original that is not, honest choices."""

import copy

import pytest
import torch
from torch import nn

from openjepa.data import open_source
from openjepa.errors import ConfigError, DataError
from openjepa.evaluation import evaluate
from openjepa.evaluation.finetune import FineTune, finetune
from openjepa.evaluation.layerwise import DropPath, blocks_of, depth_of_parameters, layer_groups, set_drop_path
from openjepa.evaluation.request import Bench, Settings
from openjepa.evaluation.tuning import Tuned, share
from openjepa.models import VisionTransformer
from openjepa.models.positions import Positions

NAMES = ("blue", "green", "red")
QUICK = {"lrs": (3e-3,), "epochs": 6, "batch_size": 20, "precision": "fp32"}


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return VisionTransformer(
        image_size=(16, 16), patch_size=8, dim=16, depth=3, heads=2, positions=Positions("learned")
    )


@pytest.fixture
def bench(tmp_path, write, vit, normalise, transform):
    train = open_source(write(tmp_path / "train", NAMES, 20, seed=0))
    val = open_source(write(tmp_path / "val", NAMES, 8, seed=1))
    return Bench(vit, normalise, transform, train, val)


def test_learns_and_leaves_the_encoder_alone(bench):
    before = copy.deepcopy(bench.encoder.state_dict())
    state = torch.get_rng_state()
    ticks = []
    score = finetune(bench, FineTune(**QUICK), on_epoch=lambda *a: ticks.append(a))
    assert score.value > 0.8
    assert score.grid_max is None
    assert score.protocol["chosen_on"] == "given"
    assert score.n_train == 60
    assert ticks == [(i, 6) for i in range(1, 7)]
    assert all(torch.equal(before[key], value) for key, value in bench.encoder.state_dict().items())
    assert bench.encoder.blocks[2].drop_path == 0.0
    assert torch.equal(state, torch.get_rng_state())
    assert finetune(bench, FineTune(**QUICK)) == score


def test_rates_fall_with_depth(vit):
    head = nn.Linear(16, 3)
    groups = layer_groups(vit, head, 1.0, 0.5, 0.05)
    rate = {id(p): (g["peak"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(rate) == len(list(vit.parameters())) + 2
    assert rate[id(head.weight)] == (1.0, 0.05)
    assert rate[id(head.bias)] == (1.0, 0.0)
    assert rate[id(vit.norm.weight)] == (1.0, 0.0)
    for i, expected in enumerate((0.125, 0.25, 0.5)):
        assert rate[id(vit.blocks[i].attn.qkv.weight)] == (expected, 0.05)
        assert rate[id(vit.blocks[i].norm1.weight)] == (expected, 0.0)
    assert rate[id(vit.patch_embed.proj.weight)] == (0.0625, 0.05)
    assert rate[id(vit.pos_embed)] == (0.0625, 0.0)


def test_zero_rate_below_is_a_frozen_encoder(bench):
    """With a decay of nearly 0 only the head and the final norm move."""
    found = {}
    real = Tuned.eval

    def keep(self):
        found["model"] = self
        return real(self)

    Tuned.eval = keep
    try:
        finetune(bench, FineTune(**{**QUICK, "epochs": 1, "layer_decay": 1e-9, "drop_path": 0.0}))
    finally:
        Tuned.eval = real
    tuned, first = found["model"].encoder.state_dict(), bench.encoder.state_dict()
    assert torch.allclose(tuned["blocks.1.attn.qkv.weight"], first["blocks.1.attn.qkv.weight"], atol=1e-7)
    assert not torch.allclose(tuned["norm.weight"], first["norm.weight"], atol=1e-5)


def test_timm_style_blocks_and_stochastic_depth():
    class TimmBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop_path1, self.drop_path2 = nn.Identity(), nn.Identity()

    class Bare(nn.Module):
        pass

    blocks = [TimmBlock() for _ in range(3)]
    assert set_drop_path(blocks, 0.4) == 0.4
    assert [b.drop_path2.rate for b in blocks] == [0.0, 0.2, 0.4]
    assert set_drop_path([Bare()], None) == 0.0
    with pytest.raises(ConfigError, match="Bare has no stochastic depth"):
        set_drop_path([Bare()], 0.1)
    with pytest.raises(ConfigError, match="not in"):
        set_drop_path(blocks, 1.0)
    drop, x = DropPath(0.25).train(), torch.ones(4000, 2)
    out = drop(x)
    assert sorted(out.unique().tolist()) == pytest.approx([0.0, 1 / 0.75])
    assert float(out.mean()) == pytest.approx(1.0, abs=0.05)
    assert torch.equal(drop.eval()(x), x)


def test_depth_by_registration():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(2, 2)
            self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
            self.tail = nn.Linear(2, 2)

    net = Net()
    depths = depth_of_parameters(net, blocks_of(net))
    assert [depths[f"{n}.weight"] for n in ("stem", "blocks.0", "blocks.1", "tail")] == [0, 1, 2, 3]


def test_several_rates_are_chosen_on_held_out_train(bench):
    settings = {**QUICK, "lrs": (1e-6, 3e-3), "epochs": 4}
    score = finetune(bench, FineTune(**settings))
    assert score.protocol["lr"] == 3e-3
    assert score.protocol["chosen_on"] == "held-out 20% of train"
    assert score.n_train == 48
    assert score.grid_max >= score.value


def test_warm_up_then_cosine():
    shares = [share(step, 100, 0.1) for step in range(100)]
    assert shares[0] == pytest.approx(1 / 11)
    assert max(shares) == shares[10] == 1.0
    assert shares[99] < 0.001
    assert share(0, 10, 0.0) == 1.0


def test_class_token(bench):
    torch.manual_seed(0)
    vit = VisionTransformer(image_size=(16, 16), patch_size=8, dim=16, depth=2, heads=2, class_token=True)
    model = Tuned(vit, 3, "class")
    images = torch.randn(2, 3, 16, 16)
    token = vit.forward_features(images, prefix=True)[:, 0]
    assert torch.allclose(model(images), token @ model.head.weight.T + model.head.bias, atol=1e-6)
    with pytest.raises(ConfigError, match="no class token: use head 'mean'"):
        finetune(bench, FineTune(head="class"))


def test_as_an_evaluator_beside_its_start(bench, vit):
    torch.manual_seed(9)
    fresh = VisionTransformer(image_size=(16, 16), patch_size=8, dim=16, depth=3, heads=2)
    scores = evaluate(
        vit,
        bench.normalise,
        bench.train_source,
        bench.val_source,
        "finetune",
        transform=bench.transform,
        baselines={"random": fresh},
        raw_pixels=True,
        settings=Settings(options={"finetune": {**QUICK, "epochs": 1}}),
    )
    assert [s.subject for s in scores] == ["encoder", "random"]


def test_mistakes_in_one_line(bench, encoder, tmp_path, write):
    def fails(error, message, what=bench, **options):
        with pytest.raises(error, match=message) as caught:
            finetune(what, FineTune(**options))
        assert "\n" not in str(caught.value)

    def place(**changes):
        import dataclasses

        return dataclasses.replace(bench, **changes)

    flat = open_source(write(tmp_path / "flat", (".",), 3))
    odd = open_source(write(tmp_path / "odd", ("blue", "gren"), 3))
    fails(ConfigError, "TinyEncoder cannot be fine-tuned", place(encoder=encoder))
    fails(DataError, "val samples have no labels", place(val_source=flat))
    fails(DataError, "'gren'", place(val_source=odd))
    fails(ConfigError, "learning rates above 0", lrs=(0.0,))
    fails(ConfigError, "layer_decay cannot be 2", layer_decay=2)
    fails(ConfigError, "head cannot be 'cls'", head="cls")
    fails(ConfigError, "augment has no 'flips'", augment={"flips": 1})
