"""Joint embedding against formulas written out by hand in float64; who is compared with whom; what learns."""

from __future__ import annotations

import math

import pytest
import torch
from joint_runs import joint_recipe
from torch import Tensor

from openjepa.errors import ConfigError
from openjepa.methods import JointEmbedding, build_method
from openjepa.objectives import nt_xent
from openjepa.objectives.regularisers import sigreg_directions
from openjepa.types import Batch, Progress


def method(system: str, *overrides: str) -> JointEmbedding:
    torch.manual_seed(0)
    found = build_method(joint_recipe(system, *overrides))
    assert isinstance(found, JointEmbedding)
    return found.double()


def batch(model: JointEmbedding, size: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(3)
    inputs = {
        name: torch.randn(size, 3, *side, generator=generator, dtype=torch.float64)
        for name, side in {"image": (16, 16), **model.recipe.inputs}.items()
    }
    return Batch(inputs, torch.arange(size), torch.arange(size))


def projections(model: JointEmbedding, data: Batch) -> list[Tensor]:
    """View by view, without sharing passes between views."""
    pooled = [model.online.forward_features(data.inputs[name]).mean(dim=1) for name in model.names]
    return [model.predictor.project(features) for features in pooled]


def run(model: JointEmbedding, data: Batch, step: int = 4) -> float:
    out = model(data, [], Progress(step, 10))
    assert out.count == len(data) == model.count([], len(data))
    return out.loss_sum.item() / out.count


def close(found: float, wanted: float) -> None:
    assert found == pytest.approx(wanted, rel=1e-9)


def test_vicreg_is_the_formula() -> None:
    """λ mean (z − z')² + μ [v(Z) + v(Z')] + ν [c(Z) + c(Z')], 2105.04906 eq. 1-6 with 25, 25, 1."""
    model = method("vicreg")
    data = batch(model)
    first, second = (z.detach().tolist() for z in projections(model, data))
    n, d = len(first), len(first[0])
    s = sum((a - b) ** 2 for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)) / (n * d)
    total = 25 * s
    for z in (first, second):
        mean = [sum(row[j] for row in z) / n for j in range(d)]
        cov = [[sum((r[i] - mean[i]) * (r[j] - mean[j]) for r in z) / (n - 1) for j in range(d)] for i in range(d)]
        total += 25 * sum(max(0.0, 1 - math.sqrt(cov[j][j] + 1e-4)) for j in range(d)) / d
        total += sum(cov[i][j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    close(run(model, data), total)


def test_lejepa_is_the_formula() -> None:
    """(1 − λ) mean (centroid of global views − z_v)² + λ mean_v SIGReg(Z_v), 2511.08544 with λ = .02."""
    model = method("lejepa")
    data = batch(model)
    views = [z.detach() for z in projections(model, data)]
    assert len(views) == 3
    centroid = (views[0] + views[1]) / 2
    invariance = sum(float((centroid - z).square().mean()) for z in views) / 3
    directions = sigreg_directions(8, 16, seed=4).double()
    statistic = 0.0
    for z in views:
        for k in range(16):
            h = (z @ directions[:, k]).tolist()
            for node in range(17):
                t, weight = 3 * node / 16, (3 / 16 if node in (0, 16) else 2 * 3 / 16)
                gauss = math.exp(-(t**2) / 2)
                cos, sin = (sum(f(t * x) for x in h) / len(h) for f in (math.cos, math.sin))
                statistic += len(h) * weight * gauss * ((cos - gauss) ** 2 + sin**2) / (16 * 3)
    close(run(model, data), 0.98 * invariance + 0.02 * statistic)


def test_byol_is_the_formula() -> None:
    """Squared error of unit vectors, both ways (2006.07733 eq. 2); the target network is slow encoder and slow projector."""
    model = method("byol")
    with torch.no_grad():
        for part in (model.target, model.target_projector):
            for parameter in part.parameters():
                parameter.mul_(1.1)
    data = batch(model)
    total = 0.0
    for own, other in (("view0", "view1"), ("view1", "view0")):
        z = model.predictor.project(model.online(data.inputs[own]).mean(dim=1))
        q = model.predictor.prediction(z)
        t = model.target_projector(model.target(data.inputs[other]).mean(dim=1))
        unit = q / q.norm(dim=1, keepdim=True) - t / t.norm(dim=1, keepdim=True)
        total += unit.square().sum(dim=1).mean().item()
    close(run(model, data), total)


def brute_nt_xent(first: Tensor, second: Tensor, temperature: float) -> float:
    """2002.05709 eq. 1 over all 2N rows."""
    rows = [list(map(float, row / row.norm())) for row in torch.cat([first, second])]
    n, total = len(first), 0.0
    for i, a in enumerate(rows):
        scores = [sum(x * y for x, y in zip(a, b, strict=True)) / temperature for b in rows]
        others = sum(math.exp(s) for k, s in enumerate(scores) if k != i)
        total -= math.log(math.exp(scores[(i + n) % (2 * n)]) / others)
    return total / (2 * n)


def test_simclr_is_the_formula() -> None:
    model = method("info_nce")
    data = batch(model)
    first, second = (z.detach() for z in projections(model, data))
    close(run(model, data), brute_nt_xent(first, second, 0.2))
    both = torch.cat([nt_xent(first, second, first, 0.2), nt_xent(second, first, second, 0.2)])
    assert float(both.mean()) == pytest.approx(brute_nt_xent(first, second, 0.2), rel=1e-12)


@pytest.mark.parametrize("system", ["vicreg", "byol", "info_nce", "lejepa"])
def test_gradient_reaches_all_that_learns_and_the_target_only_moves(system: str) -> None:
    model = method(system)
    model(batch(model), [], Progress(0, 1)).loss_sum.backward()
    for name, parameter in model.named_parameters():
        if name.startswith("target"):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_stop_gradient_leaves_one_side() -> None:
    data = batch(method("vicreg"))
    grads = {}
    for kind in ("none", "self"):
        model = method("vicreg", f"target.kind={kind}", "objective.regularisers=[]")
        run_out = model(data, [], Progress(0, 1))
        run_out.loss_sum.backward()
        grads[kind] = model.predictor.project[-1].weight.grad
    torch.testing.assert_close(grads["self"], grads["none"] / 2)  # each pair pulls from both sides, or from one


def test_a_recipe_decides_how_many_directions_sigreg_has() -> None:
    few, many = (
        method("lejepa", f"objective.regularisers=[{{kind: sigreg, weight: 0.02, directions: {k}}}]") for k in (1, 64)
    )
    data = batch(few)
    assert abs(run(few, data) - run(many, data)) > 1e-6


def test_the_slow_network_holds_encoder_and_projector() -> None:
    model = method("byol")
    assert model.encoder is model.target
    with torch.no_grad():
        model.online.norm.weight.fill_(3.0)
        model.predictor.project[-1].weight.fill_(2.0)
        model.target_projector[-1].weight.fill_(1.0)
    model.after_step(0.75)
    assert model.target.norm.weight.unique().tolist() == [1.5]
    assert model.target_projector[-1].weight.unique().tolist() == [1.25]
    parts = {name.split(".")[0] for name in model.state_dict()}
    assert parts == {"online", "predictor", "target", "target_projector"}
    assert {name.split(".")[0] for name in method("vicreg").state_dict()} == {"online", "predictor"}


def test_small_views_are_compared_with_whole_ones_only() -> None:
    two = "data.views=[{count: 2}, {count: 2, image_size: 8}]"
    model = method("byol", two)
    assert model.wholes == [0, 1]
    data = batch(model)
    _, predictions, targets = model.embed(data)
    assert (len(predictions), len(targets)) == (4, 2)
    pairs = [(v, g) for v in range(4) for g in (0, 1) if v != g]
    cos = [torch.cosine_similarity(predictions[v], targets[g]).mean() for v, g in pairs]
    close(run(model, data), float((2 * (2 - 2 * torch.stack(cos)).mean()).detach()))


def test_a_batch_is_declared_to_matter_where_it_does() -> None:
    assert method("vicreg").batch_statistics
    assert method("info_nce", "predictor.norm=none").batch_statistics
    exact = method("byol", "predictor.norm=none")
    assert not exact.batch_statistics
    data = batch(exact)
    parts = [exact(data.rows(a, b), [], Progress(0, 1)).loss_sum for a, b in ((0, 2), (2, 6))]
    torch.testing.assert_close(exact(data, [], Progress(0, 1)).loss_sum, sum(parts))


@pytest.mark.parametrize("system", ["byol", "lejepa"])
def test_panel_measures_views_and_judges_the_evaluation_crop(system: str) -> None:
    model = method(system)
    data = batch(model)
    panel = model.panel(data, [])
    assert panel.cheats == {}
    assert panel.features.shape == panel.online_features.shape == (6, 16)
    expected = model.encoder(data.inputs["image"]).mean(dim=1)
    torch.testing.assert_close(panel.features.double(), expected, rtol=1e-5, atol=1e-5)  # kept in float32
    assert panel.loss is not None
    same = Batch({name: images[:1].expand_as(images) for name, images in data.inputs.items()}, data.ids, data.places)
    assert model.panel(same, []).target_std < 1e-4 < panel.target_std


@pytest.mark.parametrize(
    ("system", "change", "complaint"),
    [
        ("vicreg", "data.views=[{count: 1}]", "at least 2 are needed"),
        ("vicreg", "target.transform=layer_norm", "set target.transform=none"),
        ("vicreg", "target.layers=2", "target.layers must be 1"),
        ("vicreg", "objective.granularity=block", "set objective.granularity=token"),
        ("vicreg", "objective.pooled=1", "set objective.pooled=0"),
        ("info_nce", "objective.views=centroid", "set objective.views=pairs"),
        ("info_nce", "data.views=[{count: 2}, {image_size: 8}]", "views of one size"),
        ("byol", "target.kind=frozen", "target.kind frozen does not go with method joint_embedding"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(system: str, change: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        joint_recipe(system, change)
    assert "\n" not in str(caught.value)
