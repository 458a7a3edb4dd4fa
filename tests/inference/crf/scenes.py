"""Small images and unsure probabilities for the tests of this room."""

from __future__ import annotations

import numpy as np


def scene(
    spatial: tuple[int, ...] = (20, 24), *, labels: int = 4, channels: int = 3, noise: float = 8, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """An image with an edge, noise on it, uint8; probabilities that lean the right way."""
    random = np.random.default_rng(seed)
    half = spatial[-1] // 2
    right = (np.arange(spatial[-1]) >= half).astype(int)
    values = np.where(right, 170, 60)[..., None] + random.normal(0, noise, (*spatial, channels))
    logits = random.normal(size=(labels, *spatial))
    for label in range(labels):
        logits[label] += 1.2 * (right == label % 2)
    powers = np.exp(logits)
    return np.clip(values, 0, 255).astype(np.uint8), (powers / powers.sum(0)).astype(np.float32)
