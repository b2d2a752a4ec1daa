"""Laws of steering and ablation, and what removal must and must not take away."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch.testing import assert_close

from emolens.ablation import remove
from emolens.controls import random_directions
from emolens.errors import SelectionError
from emolens.interventions import Ablate, Clamp, Steer, unit


def stream(seed, d_model=12):
    return torch.randn(3, 5, d_model, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 999), a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_steering_is_additive_and_undone_by_its_negative(seed, a, b):
    residual, vector = stream(seed), stream(seed + 1)[0, 0]
    once = Steer(b * vector)(Steer(a * vector)(residual))
    assert_close(once, Steer((a + b) * vector)(residual), atol=1e-5, rtol=1e-5)
    assert_close(Steer(-a * vector)(Steer(a * vector)(residual)), residual, atol=1e-5, rtol=1e-5)


def test_steering_leaves_the_hosts_own_tensor_alone():
    residual = stream(0)
    kept = residual.clone()
    Steer(torch.ones(12))(residual)
    assert torch.equal(residual, kept)


@given(seed=st.integers(0, 999), count=st.integers(1, 4))
def test_ablation_sets_the_coordinates_and_leaves_the_complement(seed, count):
    basis = torch.linalg.qr(stream(seed)[0].T)[0][:, :count].T
    value = torch.arange(count).float()
    residual = stream(seed + 7)
    ablate = Ablate(basis, value)
    after = ablate(residual)
    assert_close(after @ basis.T, value.expand(3, 5, count), atol=1e-5, rtol=1e-5)
    rest = torch.eye(12) - basis.T @ basis
    assert_close(after @ rest, residual @ rest, atol=1e-5, rtol=1e-5)
    assert_close(ablate(after), after, atol=1e-5, rtol=1e-5)
    assert (residual @ basis.T - value).abs().max() > 0.1, "there was something to remove"


def test_removal_returns_the_coordinate_to_the_mean_whatever_the_vectors_length():
    direction, mean = torch.randn(12), torch.randn(12)
    after = remove(5 * direction, mean)(stream(0))
    assert_close(
        after @ unit(direction), (mean @ unit(direction)).expand(3, 5), atol=1e-5, rtol=1e-5
    )


def test_a_vector_of_length_zero_is_an_error_not_nan():
    with pytest.raises(SelectionError, match="length zero"):
        unit(torch.zeros(2, 12))


def test_random_directions_are_unit_seeded_and_nearly_orthogonal_in_wide_streams():
    one, again, other = (random_directions(20, 2048, s) for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert_close(one.norm(dim=1), torch.ones(20))
    cosine = one @ one.T - torch.eye(20)
    assert cosine.abs().max() < 0.1


@given(seed=st.integers(0, 999), low=st.floats(-2, 0), high=st.floats(0, 2))
def test_a_clamp_moves_only_what_lies_outside_and_only_along_its_direction(seed, low, high):
    residual = stream(seed)
    direction = unit(stream(seed + 1)[0, 0])
    after = Clamp(direction, low, high)(residual)
    before, found = residual @ direction, after @ direction
    assert_close(found, before.clamp(low, high), atol=1e-5, rtol=1e-5)
    rest = residual - before[..., None] * direction
    assert_close(after - found[..., None] * direction, rest, atol=1e-5, rtol=1e-5)
    inside = (before >= low) & (before <= high)
    assert torch.equal(after[inside], residual[inside])
    free = Clamp(direction, float("-inf"), float("inf"))
    assert torch.equal(free(residual), residual)
