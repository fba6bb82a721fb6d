"""PCA against numpy; fixed signs; joint colours; foreground."""

import numpy as np
import pytest
import torch

from openjepa.errors import DataError
from openjepa.features import fit_pca, split_foreground, to_colours


def _data(n=80, d=12):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0)) * torch.linspace(3, 0.1, d) + 5


@pytest.mark.parametrize("shape", [(80, 12), (6, 12)])
def test_equals_numpy(shape):
    x = _data(*shape)
    basis = fit_pca(x, 3)
    c = x.double().numpy() - x.double().numpy().mean(0)
    _, s, v = np.linalg.svd(c, full_matrices=False)
    np.testing.assert_allclose(np.abs((basis.components.numpy() * v[:3]).sum(1)), 1, atol=1e-10)
    np.testing.assert_allclose(basis.explained.numpy(), (s**2 / (s**2).sum())[:3], rtol=1e-10)
    np.testing.assert_allclose(basis.project(x).numpy(), c @ basis.components.numpy().T, atol=1e-10)


def test_signs_do_not_depend_on_row_order():
    x = _data()
    a, b = fit_pca(x), fit_pca(x.flip(0))
    torch.testing.assert_close(a.components, b.components)
    largest = a.components.abs().argmax(1)
    assert bool((a.components[torch.arange(3), largest] > 0).all())


def test_colours_are_joint_percentiles():
    x = _data(500)
    colours = to_colours(x)
    scores = fit_pca(x).project(x).numpy()
    low, high = np.percentile(scores, [1, 99], axis=0)
    np.testing.assert_allclose(colours.low.numpy(), low, rtol=1e-10)
    np.testing.assert_allclose(colours.rgb.numpy(), np.clip((scores - low) / (high - low), 0, 1), atol=1e-6)
    assert colours.foreground is None


def test_foreground_is_what_avoids_the_border():
    side = 8
    picture = torch.zeros(side, side, dtype=torch.bool)
    picture[1:7, 1:7] = True  # the object covers more than half, but no border
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(side * side, 6, generator=generator) * 0.1
    x[picture.flatten()] += 4
    border = torch.ones(side, side, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    for sign in (1, -1):
        colours = to_colours(sign * x, foreground=True, border=border.flatten())
        assert torch.equal(colours.foreground, picture.flatten())
        assert bool((colours.rgb[~picture.flatten()] == 0.5).all())


def test_foreground_without_border_is_the_smaller_side():
    values = torch.cat([torch.zeros(9), torch.ones(3)])
    assert torch.equal(split_foreground(values), values.bool())
    assert torch.equal(split_foreground(-values), values.bool())
    assert not split_foreground(torch.ones(4)).any()


def test_mistakes():
    with pytest.raises(DataError, match="3 principal components"):
        fit_pca(torch.ones(3, 8), 3)
    with pytest.raises(DataError, match="finite"):
        fit_pca(torch.full((9, 8), float("nan")))
