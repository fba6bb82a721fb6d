"""Attentive probes: the published arithmetic, names and initialisation; shared products equal separate ones."""

import math

import pytest
import torch
import torch.nn.functional as F

from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub.golden import read_golden, relative_error
from openjepa.hub.parity import main
from openjepa.hub.parity_probe import read_probe
from openjepa.hub.strict import load_strict
from openjepa.models.attentive import AttentiveClassifier, AttentivePooler, classify_together

DIM, HEADS = 24, 3


def tokens(batch=4, count=7, dim=DIM, seed=0):
    return torch.randn(batch, count, dim, generator=torch.Generator().manual_seed(seed))


def ruffled(module, seed=1):
    """Every parameter moved, so that none is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def norm(w, name, x):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def attend(q, k, v, heads):
    size, parts = q.shape[-1] // heads, []
    for head in range(heads):
        cut = slice(head * size, (head + 1) * size)
        weights = (q[..., cut] @ k[..., cut].transpose(-1, -2) / math.sqrt(size)).softmax(-1)
        parts.append(weights @ v[..., cut])
    return torch.cat(parts, -1)


def mlp(w, name, x):
    return linear(w, f"{name}.fc2", F.gelu(linear(w, f"{name}.fc1", x)))


def plain(w, x, depth, form):
    """official.md §7.1 in plain words, from a state dict of published names."""

    def block(name, x):
        q, k, v = linear(w, f"{name}.attn.qkv", norm(w, f"{name}.norm1", x)).chunk(3, -1)
        x = x + linear(w, f"{name}.attn.proj", attend(q, k, v, HEADS))
        return x + mlp(w, f"{name}.mlp", norm(w, f"{name}.norm2", x))

    if form == "vjepa2":
        for i in range(depth - 1):
            x = block(f"pooler.blocks.{i}", x)
    cross, q = "pooler.cross_attention_block", w["pooler.query_tokens"].expand(len(x), -1, -1)
    k, v = linear(w, f"{cross}.xattn.kv", norm(w, f"{cross}.norm1", x)).chunk(2, -1)
    q = q + attend(linear(w, f"{cross}.xattn.q", q), k, v, HEADS)  # no projection, and the query is not normalised
    q = q + mlp(w, f"{cross}.mlp", norm(w, f"{cross}.norm2", q))
    if form == "vjepa":
        for i in range(depth - 1):
            q = block(f"pooler.blocks.{i}", q)
    return linear(w, "linear", q.squeeze(1))


@pytest.mark.parametrize("form", ["vjepa", "vjepa2"])
@pytest.mark.parametrize("depth", [1, 4])
def test_equals_the_published_arithmetic(form, depth):
    probe = ruffled(AttentiveClassifier(DIM, HEADS, 5, depth=depth, form=form)).double()
    x = tokens().double()
    assert torch.allclose(probe(x), plain(probe.state_dict(), x, depth, form), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", ["vjepa", "vjepa2"])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("complete", [True, False])
def test_together_equals_apart_with_gradients(form, depth, complete):
    options = {"depth": depth, "form": form, "complete_block": complete}
    probes = [ruffled(AttentiveClassifier(DIM, HEADS, 5, **options), seed).double() for seed in range(3)]
    x = tokens().double()
    weights = torch.randn(4, 5, dtype=torch.float64)

    def gradients(logits):
        for probe in probes:
            probe.zero_grad()
        sum((part * weights).sum() for part in logits).backward()
        return [None if p.grad is None else p.grad.clone() for probe in probes for p in probe.parameters()]

    apart, together = [probe(x) for probe in probes], classify_together(probes, x)
    for a, b in zip(apart, together, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    for a, b in zip(gradients(apart), gradients(together), strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-8, atol=1e-10)


def test_probes_with_another_epsilon_are_together_what_they_are_apart():
    """An imported probe has its encoder's epsilon (Hugging Face), which shows on tokens of small spread."""
    probe, x = ruffled(AttentiveClassifier(DIM, HEADS, 3)), 1e-3 * tokens()
    usual = probe(x)
    for module in probe.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    assert not torch.allclose(probe(x), usual)
    assert torch.equal(classify_together([probe], x)[0], probe(x))


def test_bare_cross_attention_has_neither_norm_nor_residual():
    pooler = ruffled(AttentivePooler(DIM, HEADS, queries=2, complete_block=False)).double()
    w, x = pooler.state_dict(), tokens().double()
    k, v = linear(w, "cross_attention_block.kv", x).chunk(2, -1)
    q = linear(w, "cross_attention_block.q", w["query_tokens"].expand(4, -1, -1))
    assert torch.allclose(pooler(x), attend(q, k, v, HEADS))
    assert not [name for name in w if "norm" in name or "mlp" in name]


def test_initialisation_is_rescaled_by_depth():
    torch.manual_seed(0)
    four = AttentivePooler(128, 4, depth=4).state_dict()
    for i in range(3):
        assert float(four[f"blocks.{i}.attn.proj.weight"].std()) == pytest.approx(0.02 / math.sqrt(2 * i + 2), rel=0.03)
        assert float(four[f"blocks.{i}.mlp.fc1.weight"].std()) == pytest.approx(0.02, rel=0.03)
    assert float(four["cross_attention_block.mlp.fc2.weight"].std()) == pytest.approx(0.02 / math.sqrt(6), rel=0.03)
    one = AttentivePooler(128, 4, form="vjepa").state_dict()
    for name in ("xattn.proj", "mlp.fc2"):
        assert float(one[f"cross_attention_block.{name}.weight"].std()) == pytest.approx(0.02 / math.sqrt(2), rel=0.03)
    assert float(one["query_tokens"].std()) == pytest.approx(0.02, rel=0.3)


def test_wrong_sizes_in_one_line():
    with pytest.raises(ConfigError, match="width 24 cannot have 5 heads"):
        AttentivePooler(24, 5)
    with pytest.raises(ConfigError, match="at least one block"):
        AttentivePooler(24, 3, depth=0)


@pytest.mark.parametrize(("form", "depth"), [("vjepa", 1), ("vjepa2", 4)])
@pytest.mark.parametrize("complete", [True, False])
def test_published_files_load_strictly(tmp_path, form, depth, complete):
    probe = ruffled(AttentiveClassifier(DIM, HEADS, 5, depth=depth, form=form, complete_block=complete))
    state = {f"module.{key}": value for key, value in probe.state_dict().items()}
    whole = {"classifier": state} if form == "vjepa" else {"classifiers": [state, state], "epoch": 3}
    torch.save(whole, tmp_path / "probe.pt")
    found = read_probe(str(tmp_path / "probe.pt"), HEADS)
    assert found.pooler.form == form
    assert torch.equal(found(tokens()), probe(tokens()))
    del state["module.linear.bias"]
    torch.save(whole, tmp_path / "less.pt")
    with pytest.raises(CheckpointError, match="missing"):
        read_probe(str(tmp_path / "less.pt"), HEADS)
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no attentive classifier"):
        read_probe(str(tmp_path / "other.pt"), HEADS)


def test_v_jepa_1_keeps_a_projection_that_changes_nothing():
    probe = AttentiveClassifier(DIM, HEADS, 5, form="vjepa")
    before = probe(tokens())
    with torch.no_grad():
        probe.pooler.cross_attention_block.xattn.proj.weight.fill_(9.0)
    assert torch.equal(probe(tokens()), before)
    state = probe.state_dict()
    load_strict(AttentiveClassifier(DIM, HEADS, 5, form="vjepa"), state)
    with pytest.raises(CheckpointError, match="proj"):
        load_strict(AttentiveClassifier(DIM, HEADS, 5, form="vjepa2"), state)


@pytest.mark.shared
@pytest.mark.parametrize("system", ["vjepa", "vjepa2"])
def test_golden_logits(shared, system, capsys):
    golden = read_golden(shared / "golden" / system)
    probe = read_probe(str(golden.path / "attentive_probe.pt"), golden.integer("heads"))
    reference, target = golden.tensor("classifier_logits"), golden.tensor("target_full")
    assert len(probe.pooler.blocks) == (0 if system == "vjepa" else 3)
    with torch.no_grad():
        assert relative_error(probe(target).double(), reference.double()) <= 1e-5
        assert relative_error(classify_together([probe], target)[0].double(), reference.double()) <= 1e-5
        assert relative_error(probe(target + 0.1 * tokens(2, 64, 96)).double(), reference.double()) > 1e-5
    main([str(golden.path)])
    line = next(line for line in capsys.readouterr().out.splitlines() if "classifier_logits" in line)
    assert line.endswith("ok")
