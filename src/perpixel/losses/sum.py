"""Several losses added up, each with its weight."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from perpixel.errors import InputError


class WeightedSum(nn.Module):
    """sum_i weights[i] * losses[i](logits, target) -> scalar."""

    def __init__(self, losses: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        if not losses or len(losses) != len(weights):
            raise InputError(f"{len(losses)} losses with {len(weights)} weights: give as many, at least one")
        self.losses = nn.ModuleList(losses)
        self.weights = tuple(weights)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        terms = [weight * loss(logits, target) for weight, loss in zip(self.weights, self.losses, strict=True)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total
