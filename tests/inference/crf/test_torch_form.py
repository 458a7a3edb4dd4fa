"""The torch form gives the compiled form's numbers, and the right gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from inference.crf.scenes import scene
from perpixel.errors import InputError
from perpixel.inference.crf import CrfSettings, DenseCRF, compiled_form, dense, dense_crf
from perpixel.inference.crf.torch_form import TorchLattice, bilateral_filter, refine_by_torch, spatial_filter, unrolled

MILD = {
    "bilateral_weight": 1.0,
    "spatial_weight": 0.7,
    "bilateral_width": 9.0,
    "bilateral_range": 20.0,
    "iterations": 4,
}


@pytest.mark.parametrize(
    ("spatial", "extra"),
    [
        ((20, 24), {}),
        ((20, 24), {"normalisation": "before"}),
        ((20, 24), {"normalisation": "after"}),
        ((20, 24), {"normalisation": "none", "bilateral_weight": 0.01, "spatial_weight": 0.02}),
        ((20, 24), {"bilateral_weight": 0.0, "spatial_width": (2.0, 50.0)}),
        ((20, 24), {"spatial_weight": 0.0}),
        ((20, 24), {"iterations": 0}),
        ((20, 24), {"compatibility": [[0, 1, 2, 1], [0.5, 0, 1, 1], [1, 3, 0, 1], [1, 1, 1, -0.5]]}),
        ((6, 8, 9), {"bilateral_range": (9.0, 20.0)}),
    ],
)
def test_the_compiled_form_s_numbers(spatial: tuple[int, ...], extra: dict[str, Any]) -> None:
    image, probs = scene(spatial, channels=3 if len(spatial) == 2 else 2)
    settings = CrfSettings(**{**MILD, **extra})
    apart = np.abs(refine_by_torch(image, probs, settings) - dense_crf(image, probs, **settings.to_json()))
    assert apart.max() < 2e-5


def test_stands_in_where_numba_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    image, probs = scene((10, 12))
    compiled = dense_crf(image, probs, **MILD)
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    steps: list[int] = []
    slow = dense_crf(image, probs, on_step=lambda i, _: steps.append(i), **MILD)
    assert np.abs(slow - compiled).max() < 2e-5
    assert steps == [0, 1, 2, 3, 4]
    probs[:, 3, 4] = np.nan
    with pytest.raises(InputError, match=r"NaN or infinite at pixel \(3, 4\)"):
        dense_crf(image, probs)


def test_stands_in_where_compiled_code_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    image, probs = scene((10, 12))
    fast = dense_crf(image, probs, **MILD)

    def full_disk(*arguments: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(compiled_form, "refine", full_disk)
    dense._keeps_compiled.cache_clear()
    slow = dense_crf(image, probs, **MILD)
    dense._keeps_compiled.cache_clear()
    assert np.abs(slow - fast).max() < 2e-5


def test_lattice_weights_are_shares() -> None:
    lattice = TorchLattice.build(torch.randn(200, 5, generator=torch.Generator().manual_seed(0)))
    assert lattice.weights.sum(1) == pytest.approx(np.ones(200), abs=1e-5)
    assert lattice.weights.min() > -1e-5
    # Who is my neighbour one step on has me one step back.
    points = lattice.neighbours.shape[2]
    back, on = lattice.neighbours[0]
    there = on < points
    assert (back[on[there]] == torch.arange(points)[there]).all()


def test_gradients_of_unaries_weights_and_compatibility() -> None:
    image, probs = scene((4, 5), labels=3)
    settings = CrfSettings(**MILD)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()
    filters = [spatial_filter((4, 5), settings, torch.device("cpu")), bilateral_filter(pixels, settings)]

    def answer(logits: torch.Tensor, near: torch.Tensor, alike: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        return unrolled(logits, list(zip(filters, (near, alike))), matrix, iterations=2)

    inputs = [torch.from_numpy(probs).double().log(), torch.rand(3, 1, 1).double(), torch.rand(3, 1, 1).double()]
    inputs.append((1 - torch.eye(3)).double() + 0.1 * torch.rand(3, 3).double())
    assert torch.autograd.gradcheck(answer, [each.requires_grad_() for each in inputs], fast_mode=True)


def test_module_starts_as_the_function_and_learns() -> None:
    image, probs = scene((16, 20))
    settings = CrfSettings(**MILD)
    crf = DenseCRF(4, settings)
    logits = torch.from_numpy(probs).log()[None]
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.no_grad():
        start = crf(logits, pixels).softmax(1)[0].numpy()
    assert np.abs(start - dense_crf(image, probs, **settings.to_json())).max() < 2e-5

    target = (torch.arange(20) >= 10).long().expand(1, 16, 20)
    optimizer = torch.optim.Adam(crf.parameters(), 0.1)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(crf(logits, pixels), target)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in crf.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_module_takes_batches_half_precision_and_volumes() -> None:
    crf = DenseCRF(3, CrfSettings(iterations=2))
    for spatial in ((6, 7), (4, 5, 6)):
        logits = torch.randn(2, 3, *spatial, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            out = crf(logits, torch.rand(2, 1, *spatial) * 255)
        assert out.shape == logits.shape and out.dtype == torch.float32
        out.sum().backward()
        assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_module_refuses_what_does_not_fit() -> None:
    with pytest.raises(InputError, match=r"logits \(1, 3, 8, 8\) and image \(1, 3, 8, 9\)"):
        DenseCRF(3)(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))
    with pytest.raises(InputError, match="compatibility of 2 classes for num_classes=3"):
        DenseCRF(3, CrfSettings(compatibility=((0, 1), (1, 0))))


@pytest.mark.gpu
def test_cuda_gives_the_same() -> None:
    image, probs = scene((60, 80), labels=7)
    settings = CrfSettings(**MILD)
    here, there = (refine_by_torch(image, probs, settings, device=device) for device in ("cpu", "cuda"))
    assert np.abs(here - there).mean() < 1e-4
    crf = DenseCRF(7, settings).cuda()
    logits = torch.from_numpy(probs).log()[None].cuda().requires_grad_()
    crf(logits, torch.from_numpy(image).permute(2, 0, 1)[None].cuda()).square().mean().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0
