"""VICReg's terms and SIGReg against numpy in float64, and two processes against one on the joint batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from openjepa.objectives import covariance, sigreg, variance, vicreg
from openjepa.objectives.regularisers import sigreg_directions

EXACT = 1e-6


def features(n: int = 40, d: int = 7, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix * 0.4 + 0.3


def epps_pulley(z: np.ndarray, axes: np.ndarray, nodes: int = 17) -> float:
    """T = N ∫ |φ̂ − e^{−t²/2}|² e^{−t²/2} dt per direction with complex numbers, by numpy's trapezoid over [−3, 3]."""
    t = np.linspace(-3, 3, 2 * nodes - 1)
    found = []
    for axis in axes.T:
        empirical = np.exp(1j * np.outer(t, z @ axis)).mean(axis=1)
        gap = np.abs(empirical - np.exp(-(t**2) / 2)) ** 2
        found.append(len(z) * np.trapezoid(gap * np.exp(-(t**2) / 2), t))
    return float(np.mean(found))


@pytest.mark.parametrize(("n", "d", "directions", "nodes"), [(40, 7, 16, 17), (5, 12, 64, 17), (33, 3, 8, 33)])
def test_sigreg_is_the_epps_pulley_statistic(n: int, d: int, directions: int, nodes: int) -> None:
    z = features(n, d)
    axes = sigreg_directions(d, directions, seed=4).double().numpy()
    found = float(sigreg(z, seed=4, directions=directions, nodes=nodes))
    assert found == pytest.approx(epps_pulley(z.numpy(), axes, nodes), rel=EXACT)


def test_variance_and_covariance_equal_numpy() -> None:
    z = features()
    cov = np.cov(z.numpy().T)  # over N − 1
    hinge = np.maximum(0, 1 - np.sqrt(np.diagonal(cov) + 1e-4)).mean()
    off = (cov**2).sum() - (np.diagonal(cov) ** 2).sum()
    assert hinge > 0
    assert float(variance(z)) == pytest.approx(hinge, rel=EXACT)
    assert float(covariance(z)) == pytest.approx(off / 7, rel=EXACT)
    assert float(vicreg(z, 0.5)) == pytest.approx(hinge + 0.5 * off / 7, rel=EXACT)


@pytest.mark.parametrize("term", [variance, covariance, lambda z: sigreg(z, seed=1, directions=5)])
def test_gradients_equal_finite_differences(term: object) -> None:
    assert torch.autograd.gradcheck(term, (features(6, 4).requires_grad_(),))


def test_directions_are_unit_and_follow_from_the_seed() -> None:
    axes = sigreg_directions(16, 200, seed=9)
    torch.testing.assert_close(axes.norm(dim=0), torch.ones(200))
    assert torch.equal(axes, sigreg_directions(16, 200, seed=9))
    assert not torch.equal(axes, sigreg_directions(16, 200, seed=10))
    state = torch.get_rng_state()
    sigreg(features(), seed=3)
    assert torch.equal(state, torch.get_rng_state())  # torch's own generator is left alone


@pytest.mark.parametrize("n", [100, 2000])
def test_sigreg_of_a_normal_sample_is_about_one_whatever_its_size(n: int) -> None:
    z = torch.randn(n, 16, generator=torch.Generator().manual_seed(0))
    good = float(sigreg(z, seed=3))
    assert 0.5 < good < 2
    for bad in (0.1 * z, z[:, :1].expand(-1, 16), z + 1):
        assert float(sigreg(bad, seed=3)) > 0.1 * n * good  # grows with N


def test_autocast_does_not_round_the_statistics() -> None:
    z = features(64, 12).float()
    for term in (vicreg, lambda x: sigreg(x, seed=2)):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(term(z), term(z.clone()))
            inside = term(z)
        assert float(inside) == pytest.approx(float(term(z.double())), rel=1e-5)


def test_a_batch_of_one_has_no_variance_term() -> None:
    assert float(variance(torch.ones(1, 4))) == 0


# ---------------------------------------------------------------------- two processes


def joint() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of 7 samples (4 in one process, 3 in the other) and a weight that makes features of them."""
    return features(7, 5, seed=1), features(5, 6, seed=2)


def answers(x: torch.Tensor, weight: torch.Tensor) -> dict[str, list[float]]:
    """Each term's value and its gradient by the weight."""
    found = {}
    for name, term in (("vicreg", vicreg), ("variance", variance), ("covariance", covariance), ("sigreg", _sigreg)):
        w = weight.clone().requires_grad_()
        value = term(x @ w)
        (value * len(x) / 7).backward()  # a process's share of the loss, by its share of the samples
        found[name] = [float(value.detach()), *w.grad.flatten().tolist()]
    return found


def _sigreg(z: torch.Tensor) -> torch.Tensor:
    return sigreg(z, seed=11, directions=32)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_equal_one_on_the_joint_batch(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for name, one in answers(*joint()).items():
        values = [rank["shared"][name] for rank in ranks]
        assert values[0][0] == pytest.approx(one[0], rel=EXACT), name
        assert values[1][0] == values[0][0], name
        summed = [a + b for a, b in zip(values[0][1:], values[1][1:], strict=True)]  # what DDP hands the optimizer
        assert summed == pytest.approx(one[1:], rel=EXACT, abs=1e-12), name
    x, weight = joint()
    for rank, rows in ((0, x[:4]), (1, x[4:])):  # `alone`: nobody waits for anybody
        by_itself = answers(rows, weight)
        assert ranks[rank]["alone"]["vicreg"] == pytest.approx(by_itself["vicreg"], rel=EXACT)


def _work(rank: int, folder: Path) -> None:
    import torch.distributed as dist

    from openjepa.objectives.across import alone

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    x, weight = joint()
    mine = x[:4] if rank == 0 else x[4:]
    with alone():
        separate = answers(mine, weight)
    (folder / f"{rank}.json").write_text(json.dumps({"shared": answers(mine, weight), "alone": separate}))
    dist.destroy_process_group()


if __name__ == "__main__":
    place = Path(sys.argv[1])
    torch.set_num_threads(1)
    child = os.fork()
    _work(1 if child == 0 else 0, place)
    if child == 0:
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
