"""The gate of an image head, fitted to training images."""

import pytest
import torch

from modeling_unimur.modeling_open_clip import ImageGate
from unimur_mini.dual_encoder.image_gate import fit_gate, open_gate


def features(count: int, seed: int) -> torch.Tensor:
    """Of images of one kind: 6 directions of 24, beside a common mean and a little noise."""
    torch.manual_seed(0)
    mean, directions = torch.rand(24), torch.randn(6, 24)
    generator = torch.Generator().manual_seed(seed)
    shares = torch.randn(count, 6, generator=generator)
    return mean + 0.3 * shares @ directions + 0.01 * torch.randn(count, 24, generator=generator)


@pytest.fixture(params=(4, 8, 24))
def gate(request):
    gate = ImageGate(24, request.param)
    fit_gate(gate, features(400, seed=1))
    return gate


def test_is_open_until_it_is_fitted_and_after_a_reset(gate):
    assert (ImageGate(24, 4)(features(9, seed=2)) == 1).all()
    open_gate(gate)
    assert (gate(features(9, seed=2)) == 1).all()


def test_tells_images_of_the_training_kind_from_others(gate):
    others = torch.rand(100, 24, generator=torch.Generator().manual_seed(3))
    assert gate(features(100, seed=2)).mean() > 0.9
    if len(gate.precisions) > 4:  # with fewer components than the images have directions the noise is not told apart
        assert gate(others).mean() < 0.05
    assert gate(features(3, seed=2)[None]).shape == (1, 3, 1)


def test_distance_is_the_mahalanobis_distance():
    gate, known, seen = ImageGate(24, 24), features(400, seed=1), features(5, seed=2)
    fit_gate(gate, known)
    known, seen = gate.scaled(known).double(), gate.scaled(seen).double()
    covariance = torch.cov(known.T, correction=0)
    covariance = covariance + 0.01 * covariance.trace() / 24 * torch.eye(24)
    centred = seen - known.mean(0)
    expected = (centred @ torch.linalg.inv(covariance) * centred).sum(-1, keepdim=True)
    assert torch.allclose(gate.distance(features(5, seed=2)).double(), expected, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_changes_little(gate, dtype):
    seen = features(50, seed=2)
    expected, distances = gate(seen), gate.distance(seen)
    half = gate.to(dtype)
    assert all(torch.isfinite(buffer).all() for buffer in half.buffers())
    assert half(seen.to(dtype)).dtype == dtype
    assert torch.allclose(half.distance(seen).log(), distances.log(), atol=0.1)
    assert torch.allclose(half(seen), expected, atol=0.2)


def test_fewer_images_than_components():
    gate = ImageGate(24, 16)
    fit_gate(gate, features(5, seed=1))
    assert all(torch.isfinite(buffer).all() for buffer in gate.buffers())
