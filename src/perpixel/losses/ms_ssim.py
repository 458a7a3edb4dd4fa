"""Multi-scale structural similarity of probabilities and truth: weighs edges and small structures more.

Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment", Asilomar 2003; as a
segmentation loss in UNet 3+ (Huang et al., ICASSP 2020). A widespread port, which UNet 3+'s release contains too,
multiplies the coarsest similarity in once a scale, which raises it to the fourth power: not so here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.losses.overlap import check_classes, mean_over_classes
from perpixel.losses.target import prepare

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # fine to coarse, as measured by Wang et al.
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def ms_ssim(first: Tensor, second: Tensor, *, scales: int = len(BETAS)) -> Tensor:
    """prod_{m < M} cs_m^b_m * (l_M cs_M)^b_M, each factor the mean over a map.

    Every scale halves the maps; one shorter than the 11-pixel window is left out, and the exponents of the others are
    raised to a sum of 1, so that sides below 176 pixels have fewer than five. Sides below 11 shrink the window. With
    several scales a negative mean counts as 0, with a single one there is no power and nothing is clamped.

    Args:
        first, second: (B, K, *S) float in 0..1.
        scales: M, at most.
    Returns:
        (B, K), at most 1, which is reached by equal maps.
    """
    used = min(scales, scales_that_fit(min(first.shape[2:])))
    total = sum(BETAS[:used]) if used < len(BETAS) else 1.0
    pool = F.avg_pool2d if first.ndim == 4 else F.avg_pool3d
    product = torch.ones_like(first[:, :, 0].flatten(2)[..., 0])
    for scale in range(used):
        if scale:
            first, second = pool(first, 2), pool(second, 2)
        luminance, contrast = _similarity(first, second)
        maps = luminance * contrast if scale == used - 1 else contrast
        mean = maps.flatten(2).mean(2)
        product = product * (mean if used == 1 else _power(mean, BETAS[scale] / total))
    return product


def scales_that_fit(side: int) -> int:
    """How many times a side can be looked at with the full window, halved each time: 1 to 5.

    >>> [scales_that_fit(side) for side in (5, 21, 22, 175, 176, 1000)]
    [1, 1, 2, 4, 5, 5]
    """
    count = 1
    while count < len(BETAS) and side // 2 >= WINDOW:
        side, count = side // 2, count + 1
    return count


def _similarity(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """(luminance, contrast and structure) in every full window: (B, K, *S') each."""
    stacked = torch.cat([first, second, first * first, second * second, first * second], dim=1)
    mean1, mean2, square1, square2, mixed = _blur(stacked).chunk(5, dim=1)
    contrast = (2 * (mixed - mean1 * mean2) + C2) / (square1 - mean1**2 + square2 - mean2**2 + C2)
    luminance = (2 * mean1 * mean2 + C1) / (mean1**2 + mean2**2 + C1)
    return luminance, contrast


def _blur(maps: Tensor) -> Tensor:
    """Gaussian mean of (B, C, *S) over windows that fit, axis by axis.

    Channel by channel in channels_last, which took a tenth of the time of single-channel maps on a CPU.
    """
    conv, layout = (F.conv2d, torch.channels_last) if maps.ndim == 4 else (F.conv3d, torch.channels_last_3d)
    channels = maps.shape[1]
    maps = maps.contiguous(memory_format=layout)
    for axis in range(2, maps.ndim):
        length = min(WINDOW, maps.shape[axis])
        places = torch.arange(length, device=maps.device, dtype=maps.dtype) - (length - 1) / 2
        kernel = torch.exp(-places.square() / (2 * SIGMA**2))
        kernel = kernel / kernel.sum()
        if maps.device.type == "cpu":
            shape = [1] * maps.ndim
            shape[axis] = length
            maps = conv(maps, kernel.view(shape).expand(channels, *shape[1:]), groups=channels)
        else:
            maps = _weighted_sum(maps, kernel, axis)
    return maps


def _weighted_sum(maps: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """The same as a convolution along `axis`, in full fp32.

    A GPU convolves fp32 maps in TF32, 10 bits of mantissa: the variance, a small difference of large means, would
    come out negative where a map is flat.
    """
    count = maps.shape[axis] - len(kernel) + 1
    total = kernel[0] * maps.narrow(axis, 0, count)
    for place in range(1, len(kernel)):
        total = total + kernel[place] * maps.narrow(axis, place, count)
    return total


def _power(mean: Tensor, exponent: float) -> Tensor:
    """mean^exponent, and 0 where the mean is not positive; there the gradient is 0 and not NaN."""
    is_positive = mean > 0
    return torch.where(is_positive, torch.where(is_positive, mean, 1.0) ** exponent, 0.0)


def ms_ssim_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = None,
    scales: int = len(BETAS),
    classes: str = "present",
) -> Tensor:
    """Mean over classes, then over samples, of 1 - MS-SSIM of the class' probabilities and its one-hot truth.

    Args:
        logits: (B, K, *S) float, unnormalised. K = 1 is the binary form: sigmoid, class 1 only.
        target: (B, *S) whole numbers, 0..K-1 (0 or 1 where K is 1) or `ignore_index`.
        ignore_index: target value whose pixels are 0 in both maps, so that they agree.
        scales: 1 to 5; fewer where the image is small, see `ms_ssim`.
        classes: average over the classes "present" in the sample, or "all" (an absent class costs nearly 1 for a
            probability of a tenth). The only map of K = 1 always counts.
    Returns:
        Scalar in [0, 1], or in [0, 2] where one scale is left; float32 also under autocast. Zero, with zero gradient,
        when every pixel is ignored.
    """
    check_classes(classes)
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        num_classes = logits.shape[1]
        if num_classes == 1:
            probs, ids = prepared.logits.sigmoid(), [1]
        else:
            probs, ids = prepared.logits.softmax(1), list(range(num_classes))
        truth = torch.stack([prepared.target == each for each in ids], dim=1).to(probs)
        if prepared.valid is not None:
            valid = prepared.valid.unsqueeze(1)
            probs, truth = probs * valid, truth * valid
        costs = 1 - ms_ssim(probs, truth, scales=scales)  # (B, K)
        counted = torch.ones_like(costs) if num_classes == 1 else truth.flatten(2).sum(2)
        return mean_over_classes(costs, counted, prepared, classes=classes, include_background=True)


class MSSSIM(nn.Module):
    """`ms_ssim_loss` with its settings: (logits (B, K, *S), target (B, *S)) -> scalar. It takes no class weights."""

    def __init__(self, *, ignore_index: int | None = None, scales: int = len(BETAS), classes: str = "present") -> None:
        super().__init__()
        check_classes(classes)
        if scales not in range(1, len(BETAS) + 1):
            raise InputError(f"scales is {scales}: give a whole number from 1 to {len(BETAS)}")
        self.ignore_index = ignore_index
        self.scales = int(scales)
        self.classes = classes

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return ms_ssim_loss(logits, target, ignore_index=self.ignore_index, scales=self.scales, classes=self.classes)
