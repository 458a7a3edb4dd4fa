"""The CRF in torch: on any device, and differentiable, so that it can be the last layer of a net.

Zheng et al., "Conditional Random Fields as Recurrent Neural Networks", ICCV 2015: the iterations of the mean field are
unrolled, and gradients flow to the logits, to the weights of the kernels and to the compatibility of labels. The image
only says where pixels lie in the lattice: no gradient flows to it.

On a CPU this is several times slower than the compiled form; it stands in for it where numba is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.inference.crf.coordinates import Keys, elevation, origin, slice_factor
from perpixel.inference.crf.settings import LEAST, SUM_TOLERANCE, CrfSettings, refuse_probs

# (K, *spatial) -> (K, *spatial), normalised.
Filter = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TorchLattice:
    """Where N pixels lie among M lattice points.

    Attributes:
        ids, weights: (N, d + 1) int64 and float: corners of each pixel's cell.
        neighbours: (d + 1, 2, M) int64; M where there is none.
    """

    ids: Tensor
    weights: Tensor
    neighbours: Tensor

    @classmethod
    @torch.no_grad()
    def build(cls, features: Tensor) -> TorchLattice:
        """The lattice of (N, d) features, in widths of the kernel."""
        d = features.shape[1]
        low, high = features.amin(0), features.amax(0)
        keys = Keys.within(low.cpu().double().numpy(), high.cpu().double().numpy())
        strides = torch.from_numpy(keys.strides).to(features.device)
        place = features @ torch.from_numpy(elevation(d) / (d + 1)).to(features).T
        whole = torch.floor(place + 0.5)
        rest = place - whole
        order = rest.argsort(dim=1, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(d + 1, device=order.device).expand_as(order))
        rank += whole.sum(1, keepdim=True).long()
        turn = (rank < 0).long() - (rank > d).long()  # back into the plane, where coordinates add up to zero
        rank, whole, rest = rank + turn * (d + 1), whole.long() + turn, rest - turn

        by_rank = torch.empty_like(rest).scatter_(1, rank, rest)
        step = torch.empty_like(rank).scatter_(1, rank, strides.expand_as(rank))
        weights = torch.cat([1 + by_rank[:, d:] - by_rank[:, :1], (by_rank[:, :d] - by_rank[:, 1:]).flip(1)], 1)
        steps = strides.sum() - (d + 1) * step.flip(1)[:, :d]
        first = (whole * strides).sum(1, keepdim=True) * (d + 1)
        points, ids = torch.unique(torch.cat([first, first + steps.cumsum(1)], 1), return_inverse=True)
        along = torch.from_numpy(keys.steps()).to(features.device)
        neighbours = torch.stack([torch.stack([_find(points, points + s * by) for s in (-1, 1)]) for by in along])
        return cls(ids, weights, neighbours)

    def filter(self, values: Tensor) -> Tensor:
        """Splat, blur, slice: (N, K) -> (N, K)"""
        weights = self.weights.to(values)
        corners = self.ids.shape[1]
        table = values.new_zeros(self.neighbours.shape[2] + 1, values.shape[1])
        for k in range(corners):
            table = table.index_add(0, self.ids[:, k], weights[:, k, None] * values)
        for left, right in self.neighbours:
            # The last row stays zero: what a missing neighbour adds.
            table = table + F.pad(0.5 * (table[left] + table[right]), (0, 0, 0, 1))
        sliced = [weights[:, k, None] * table[self.ids[:, k]] for k in range(corners)]
        return torch.stack(sliced).sum(0) * slice_factor(corners - 1)


def _find(points: Tensor, wanted: Tensor) -> Tensor:
    """Positions of `wanted` in sorted `points`; their number where absent."""
    at = torch.searchsorted(points, wanted).clamp_max(len(points) - 1)
    return torch.where(points[at] == wanted, at, len(points))


def bilateral_filter(image: Tensor, settings: CrfSettings) -> Filter:
    """The appearance kernel of a (C, *spatial) image."""
    channels, *spatial = image.shape
    sides = [torch.arange(side, device=image.device, dtype=torch.float32) for side in spatial]
    places = torch.stack(torch.meshgrid(*sides, indexing="ij")).flatten(1)
    widths = torch.from_numpy(settings.per_axis("bilateral_width", len(spatial))).to(places)
    ranges = torch.from_numpy(settings.per_axis("bilateral_range", channels)).to(places)
    values = image.flatten(1).float()
    if values.min() < 0 or values.max() > 255:  # as in the compiled form, so that both find the same lattice
        values = values - values.amin(1, keepdim=True)
    features = torch.cat([(places / widths[:, None]).flip(0), values / ranges[:, None]]).T
    lattice = TorchLattice.build(features + torch.from_numpy(origin(features.shape[1])).to(features))

    def apply(values: Tensor) -> Tensor:
        return lattice.filter(values.flatten(1).T).T.reshape(values.shape)

    return _normalised(apply, places.new_ones(1, *spatial), settings.normalisation)


def spatial_filter(spatial: tuple[int, ...], settings: CrfSettings, device: torch.device) -> Filter:
    """The smoothness kernel: a Gaussian along each axis, cut at three widths."""
    windows = []
    for width, side in zip(settings.per_axis("spatial_width", len(spatial)), spatial):
        radius = min(int(np.ceil(3 * width)), side - 1)
        windows.append(torch.from_numpy(np.exp(-0.5 * (np.arange(-radius, radius + 1) / width) ** 2)).to(device))

    def apply(values: Tensor) -> Tensor:
        for axis, window in enumerate(windows, start=1):
            turned = values.movedim(axis, -1)
            rows = turned.reshape(-1, 1, turned.shape[-1])
            rows = F.conv1d(rows, window.to(values).view(1, 1, -1), padding=len(window) // 2)
            values = rows.view(turned.shape).movedim(-1, axis)
        return values

    return _normalised(apply, torch.ones(1, *spatial, device=device), settings.normalisation)


def _normalised(apply: Filter, ones: Tensor, normalisation: str) -> Filter:
    if normalisation == "none":
        return apply
    with torch.no_grad():
        sums = apply(ones)
    if normalisation == "symmetric":
        root = sums.rsqrt()
        return lambda values: apply(values * root) * root
    if normalisation == "before":
        return lambda values: apply(values / sums)
    return lambda values: apply(values) / sums


def unrolled(
    logits: Tensor,
    filters: list[tuple[Filter, Tensor]],
    compatibility: Tensor,
    iterations: int,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Mean field: (K, *spatial) -unary -> logits of the marginals, like `logits`.

    Args:
        filters: kernels and their weights, a scalar or (K, 1, ...) each.
        compatibility: (K, K), row = label, column = the label beside it.
    """
    result = logits
    for iteration in range(iterations + 1):
        marginals = result.softmax(0)
        if on_step:
            on_step(iteration, marginals)
        if iteration == iterations or not filters:
            break
        heard = sum(weight * apply(marginals) for apply, weight in filters)
        assert isinstance(heard, Tensor)
        result = logits - (compatibility @ heard.flatten(1)).view_as(logits)
    return result


class DenseCRF(nn.Module):
    """A fully connected CRF as the last layer of a net: logits and images in, better logits out.

    Weights of the kernels (one a label) and the compatibility of labels are parameters; widths are not.

    Args:
        num_classes: K.
        settings: what the parameters start from. Of `iterations`, the paper trains with 5 and predicts with 10; the
            attribute `iterations` may be changed at any time.
    Reference:
        Zheng et al., ICCV 2015. Here kernels are normalised symmetrically by default, and one weight a label and kernel
        stands for its matrix.
    """

    def __init__(self, num_classes: int, settings: CrfSettings | None = None) -> None:
        super().__init__()
        chosen = settings or CrfSettings(iterations=5)
        self.settings, self.iterations = chosen, chosen.iterations
        self.spatial_weight = nn.Parameter(torch.full((num_classes,), float(chosen.spatial_weight)))
        self.bilateral_weight = nn.Parameter(torch.full((num_classes,), float(chosen.bilateral_weight)))
        matrix = 1 - torch.eye(num_classes) if chosen.compatibility is None else torch.tensor(chosen.compatibility)
        if matrix.shape != (num_classes, num_classes):
            raise InputError(f"compatibility of {len(matrix)} classes for num_classes={num_classes}: give one a class")
        self.compatibility = nn.Parameter(matrix.float())

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        """(B, K, *spatial) and (B, C, *spatial) in the units of `bilateral_range` -> (B, K, *spatial)

        Raises:
            InputError: sizes differ.
        """
        if logits.ndim != image.ndim or logits.shape[2:] != image.shape[2:] or len(logits) != len(image):
            raise InputError(
                f"logits {tuple(logits.shape)} and image {tuple(image.shape)}: give as many, and of the same size"
            )
        with torch.autocast(logits.device.type, enabled=False):  # sums over many pixels: half precision is too little
            precise = logits if logits.dtype == torch.float64 else logits.float()
            return torch.stack([self._one(one, picture) for one, picture in zip(precise, image)])

    def _one(self, logits: Tensor, image: Tensor) -> Tensor:
        unaries = logits.log_softmax(0).clamp_min(float(np.log(LEAST)))
        column = (-1, *(1 for _ in image.shape[1:]))
        filters = [
            (spatial_filter(tuple(image.shape[1:]), self.settings, image.device), self.spatial_weight.view(column)),
            (bilateral_filter(image, self.settings), self.bilateral_weight.view(column)),
        ]
        return unrolled(unaries, filters, self.compatibility, self.iterations)


def refine_by_torch(
    image: np.ndarray,
    probs: np.ndarray,
    settings: CrfSettings,
    on_step: Callable[[int, np.ndarray], None] | None = None,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """`dense_crf` of checked arrays, by torch."""
    given = np.asarray(probs, np.float32)
    sums = given.sum(0)
    bad = ~(np.abs(sums - 1) <= SUM_TOLERANCE) | (given < 0).any(0)
    if bad.any():
        refuse_probs(probs, int(bad.argmax()))
    with torch.inference_mode():
        pixels = torch.from_numpy(np.moveaxis(image, -1, 0).astype(np.float32)).to(device)
        logits = torch.from_numpy(given).to(device).clamp_min(LEAST).log()
        filters: list[tuple[Filter, Tensor]] = []
        if settings.spatial_weight:
            kernel = spatial_filter(tuple(pixels.shape[1:]), settings, pixels.device)
            filters.append((kernel, logits.new_tensor(settings.spatial_weight)))
        if settings.bilateral_weight:
            filters.append((bilateral_filter(pixels, settings), logits.new_tensor(settings.bilateral_weight)))
        matrix = 1 - np.eye(len(probs)) if settings.compatibility is None else np.array(settings.compatibility)

        def step(iteration: int, marginals: Tensor) -> None:
            if on_step:
                on_step(iteration, marginals.cpu().numpy())

        result = unrolled(logits, filters, torch.from_numpy(matrix).to(logits), settings.iterations, step)
        return result.softmax(0).cpu().numpy()
