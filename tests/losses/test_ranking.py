from __future__ import annotations

import pytest
import torch

from perpixel.losses.ranking import largest_first


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_largest_first(dtype: torch.dtype) -> None:
    values = torch.tensor([0.5, -0.0, 3.0, 0.0, 1e-40, 0.5, 7e8], dtype=dtype)
    ordered = values[largest_first(values)]
    assert ordered.tolist() == sorted(values.tolist(), reverse=True)


def test_ties_keep_their_order() -> None:
    assert largest_first(torch.tensor([1.0, 2.0, 1.0, 2.0, 1.0])).tolist() == [1, 3, 0, 2, 4]
