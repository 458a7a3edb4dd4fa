"""Colours that tell classes apart, also for most colour-blind readers."""

from __future__ import annotations

import colorsys

import numpy as np

BACKGROUND = (24, 26, 38)
# After Okabe & Ito (2008) and Tol's bright scheme, ordered so that neighbours in the list differ most.
FIRST = (
    (0, 158, 222), (240, 152, 26), (0, 170, 120), (220, 70, 80), (244, 222, 76), (168, 90, 196),
    (126, 206, 244), (150, 110, 60), (250, 160, 190), (140, 200, 70), (60, 90, 190), (200, 200, 200),
)  # fmt: skip
GOLDEN = 0.61803398875


def default_colours(count: int, *, background: bool = False) -> np.ndarray:
    """(count, 3) uint8 distinct colours; the first is dark when it is a background."""
    start = [BACKGROUND] if background and count else []
    chosen: list[tuple[int, int, int]] = [*start, *FIRST][:count]
    taken = {*chosen, BACKGROUND}
    step = 0
    while len(chosen) < count:
        hue, light = (step * GOLDEN) % 1.0, (0.42, 0.6, 0.76)[step % 3]
        red, green, blue = colorsys.hls_to_rgb(hue, light, 0.55 + 0.4 * (step // 3 % 2))
        colour = round(red * 255), round(green * 255), round(blue * 255)
        # Beyond a few hundred, rounding may repeat a colour: move on by one step of blue.
        while colour in taken:
            colour = colour[0], colour[1], (colour[2] + 1) % 256
        taken.add(colour)
        chosen.append(colour)
        step += 1
    return np.array(chosen, np.uint8).reshape(-1, 3)
