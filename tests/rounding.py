"""Comparing what models compute.

Weights come back bit for bit. Sums of float32 numbers do not: their order, and so their last bits, depends on the
processor and on where in memory the operands lie, which is elsewhere in a model that was loaded.
"""

from __future__ import annotations

import pytest
import torch


def assert_same_outputs(found, expected, tolerance: float = 1e-6) -> None:
    """Tensors or arrays that are equal up to rounding."""
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), atol=tolerance, rtol=tolerance)


def assert_same_weights(found: dict, expected: dict) -> None:
    """State dictionaries with the same names, types and bits."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def assert_same_training(found: dict, expected: dict) -> None:
    """State dictionaries that were trained alike: every step rounds anew."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_same_figures(found, expected, at: str = "") -> None:
    """Nested lists and dictionaries that are equal but for the last digits of their numbers."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), at
        for key, value in expected.items():
            assert_same_figures(found[key], value, f"{at}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), at
        for place, value in enumerate(expected):
            assert_same_figures(found[place], value, f"{at}/{place}")
    else:
        assert found == (pytest.approx(expected, rel=1e-4, abs=1e-4) if isinstance(expected, float) else expected), at
