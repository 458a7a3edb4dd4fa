from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from perpixel.errors import InputError
from perpixel.losses import MSSSIM, create_loss, ms_ssim, ms_ssim_loss
from perpixel.losses.ms_ssim import _weighted_sum

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
C1, C2 = 0.0001, 0.0009


def twin(first: np.ndarray, second: np.ndarray, betas: tuple[float, ...]) -> float:
    """MS-SSIM of two images (H, W) from its definition, window by window in float64."""
    places = np.arange(11) - 5.0
    line = np.exp(-(places**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2

    def mean(image: np.ndarray) -> np.ndarray:
        return convolve2d(image, window, mode="valid")

    factors = []
    for _ in betas:
        mean1, mean2 = mean(first), mean(second)
        variance1, variance2 = mean(first**2) - mean1**2, mean(second**2) - mean2**2
        covariance = mean(first * second) - mean1 * mean2
        luminance = (2 * mean1 * mean2 + C1) / (mean1**2 + mean2**2 + C1)
        contrast = 2 * np.sqrt(np.maximum(variance1 * variance2, 0))
        structure = (covariance + C2 / 2) / (contrast / 2 + C2 / 2)
        contrast = (contrast + C2) / (variance1 + variance2 + C2)
        factors.append((float((contrast * structure).mean()), float((luminance * contrast * structure).mean())))
        first, second = (
            image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
            .reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2)
            .mean((1, 3))
            for image in (first, second)
        )
    product = factors[-1][1] ** betas[-1]
    for (contrast_structure, _), beta in zip(factors[:-1], betas[:-1]):
        product *= contrast_structure**beta
    return product


def two_images(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    rows, cols = np.mgrid[:height, :width]
    first = 0.5 + 0.4 * np.sin(rows / 9) * np.cos(cols / 7)
    return first, np.clip(0.8 * first + 0.1 + random.normal(0, 0.1, first.shape), 0, 1)


@pytest.mark.parametrize(("size", "scales"), [((176, 181), 5), ((97, 90), 4), ((45, 60), 3), ((22, 23), 2)])
def test_equals_its_definition_with_as_many_scales_as_fit(size: tuple[int, int], scales: int) -> None:
    first, second = two_images(*size)
    betas = BETAS if scales == 5 else tuple(beta / sum(BETAS[:scales]) for beta in BETAS[:scales])
    value = ms_ssim(torch.from_numpy(first)[None, None], torch.from_numpy(second)[None, None])
    assert value.shape == (1, 1)
    assert value.item() == pytest.approx(twin(first, second, betas), rel=1e-9)
    assert 0.5 < value.item() < 0.99


def test_the_coarsest_factor_comes_in_once() -> None:
    """Flat maps differ in luminance only, which the last scale alone looks at."""
    first, second = torch.full((1, 1, 176, 176), 0.2), torch.full((1, 1, 176, 176), 0.8)
    luminance = (2 * 0.2 * 0.8 + C1) / (0.04 + 0.64 + C1)
    assert ms_ssim(first, second).item() == pytest.approx(luminance**0.1333, rel=1e-5)
    wrong = luminance ** (4 * 0.1333)
    assert abs(ms_ssim(first, second).item() - wrong) > 0.1


def test_a_small_image_is_one_window_without_a_power() -> None:
    logits = torch.tensor([0.7, 0.2, 0.4]).logit().view(1, 1, 1, 3)
    target = torch.tensor([[[1, 0, 0]]])
    edge = math.exp(-1 / 4.5)
    weights = np.array([edge, 1, edge]) / (1 + 2 * edge)
    probs, truth = np.array([0.7, 0.2, 0.4]), np.array([1.0, 0, 0])
    mean1, mean2 = weights @ probs, weights @ truth
    variance1, variance2 = weights @ probs**2 - mean1**2, weights @ truth**2 - mean2**2
    covariance = weights @ (probs * truth) - mean1 * mean2
    expected = (2 * mean1 * mean2 + C1) / (mean1**2 + mean2**2 + C1)
    expected *= (2 * covariance + C2) / (variance1 + variance2 + C2)
    assert ms_ssim_loss(logits, target).item() == pytest.approx(1 - expected, rel=1e-5)
    assert ms_ssim_loss(logits, 1 - target).item() > 1  # opposed structure


def test_opposed_structure_at_several_scales_costs_one_and_has_no_nan() -> None:
    target = (torch.arange(44) // 4 % 2).expand(1, 44, 44)
    logits = (1.0 - 2 * target.float()).unsqueeze(1).requires_grad_()
    loss = ms_ssim_loss(logits, target)
    loss.backward()
    assert loss.item() == 1
    assert logits.grad is not None and (logits.grad == 0).all()


def example(classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows, cols = torch.meshgrid(torch.arange(30), torch.arange(26), indexing="ij")
    target = ((rows // 9 + cols // 9) % classes).expand(2, 30, 26).clone()
    logits = torch.nn.functional.one_hot(target, classes).movedim(-1, 1) + torch.randn(
        2, classes, 30, 26, generator=generator
    )
    return logits, target


def test_it_is_the_mean_over_the_classes_of_a_sample_then_over_samples() -> None:
    logits, target = example()
    target[1][target[1] == 2] = 0  # class 2 is in the first sample only
    probs = logits.softmax(1)
    truth = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    costs = 1 - ms_ssim(probs, truth)
    expected = (costs[0].mean() + costs[1, :2].mean()) / 2
    torch.testing.assert_close(ms_ssim_loss(logits, target), expected)
    torch.testing.assert_close(ms_ssim_loss(logits, target, classes="all"), costs.mean())


def test_the_only_map_of_the_binary_form_always_counts() -> None:
    logits = torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    assert ms_ssim_loss(logits, torch.zeros(1, 12, 12).long()).item() > 0.9


def test_its_gradient_is_its_slope_over_two_scales() -> None:
    logits, target = example(2)
    logits = logits[:1, :, :23, :22].double().requires_grad_()
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).double()

    def along(step: torch.Tensor) -> torch.Tensor:
        return ms_ssim_loss(logits.detach() + step * direction, target[:1, :23, :22])

    assert torch.autograd.gradcheck(along, torch.zeros((), dtype=torch.float64, requires_grad=True))


def test_ignored_pixels_agree() -> None:
    logits, target = example()
    target[:, :, 13:] = 255
    probs = logits.softmax(1)
    truth = torch.nn.functional.one_hot(target.masked_fill(target == 255, 0), 3).movedim(-1, 1).float()
    valid = (target != 255).unsqueeze(1)
    torch.testing.assert_close(
        ms_ssim_loss(logits, target, ignore_index=255), (1 - ms_ssim(probs * valid, truth * valid)).mean()
    )


def test_fewer_scales_when_asked() -> None:
    first, second = (torch.from_numpy(image)[None, None] for image in two_images(60, 60))
    assert ms_ssim(first, second, scales=1).item() == pytest.approx(
        twin(first[0, 0].numpy(), second[0, 0].numpy(), (1.0,)), rel=1e-9
    )
    assert create_loss("msssim:scales=2").scales == 2


@pytest.mark.parametrize("scales", [0, 6, 2.5])
def test_errors(scales: float) -> None:
    with pytest.raises(InputError, match=f"scales is {scales}: give a whole number from 1 to 5"):
        MSSSIM(scales=scales)
    with pytest.raises(InputError, match="classes is 'some'"):
        MSSSIM(classes="some")


def test_hybrid_is_the_sum_of_its_three() -> None:
    logits, target = example()
    target[0, :3] = 255
    weights = torch.tensor([1.0, 2.0, 0.5])
    both = [
        create_loss(spec, class_weights=weights, ignore_index=255)(logits, target)
        for spec in ("hybrid", "focal+msssim+iou")
    ]
    torch.testing.assert_close(both[0], both[1])
    terms = sum(
        create_loss(spec, class_weights=weights, ignore_index=255)(logits, target)
        for spec in ("focal", "msssim", "iou")
    )
    torch.testing.assert_close(both[0], terms)


def test_the_sum_that_gpus_take_is_the_convolution():
    maps = torch.rand(2, 3, 13, 17, dtype=torch.float64)
    kernel = torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64)
    along_rows = torch.nn.functional.conv2d(maps.flatten(0, 1)[:, None], kernel.view(1, 1, 3, 1)).view(2, 3, 11, 17)
    assert torch.allclose(_weighted_sum(maps, kernel, 2), along_rows)
    assert torch.allclose(_weighted_sum(maps.mT, kernel, 3), along_rows.mT)
