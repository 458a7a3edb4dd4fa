"""How many channels the images of a data set have, from their headers."""

from __future__ import annotations

from collections import Counter

from perpixel.data.sample import Sample
from perpixel.data.threads import map_threads
from perpixel.errors import InputError
from perpixel.images import ImageInfo, probe_image, probe_volume

# Headers looked at; more only costs time.
MAX_PROBES = 2000


def find_channels(samples: list[Sample]) -> tuple[int, list[str]]:
    """The number of channels that images are loaded with: the one they have, or 3 where grey and colour are mixed."""
    step = max(1, len(samples) // MAX_PROBES)
    counts = Counter(found for found in map_threads(_probe_channels, samples[::step]) if found)
    if not counts:
        return 3, []  # no header could be read; the check names every file
    if len(counts) == 1:
        return next(iter(counts)), []
    if set(counts) <= {1, 3, 4}:
        words = {1: "grey", 3: "colour", 4: "colour with transparency"}
        listed = ", ".join(f"{count} {words[channels]}" for channels, count in sorted(counts.items()))
        how = [word for channels, word in ((1, "grey repeated"), (4, "transparency dropped")) if channels in counts]
        return 3, [f"images are mixed ({listed}): all are read as 3 channels, {' and '.join(how)}"]
    return counts.most_common(1)[0][0], []


def _probe_channels(sample: Sample) -> int:
    try:
        infos: list[ImageInfo] = [probe_image(path) for path in sample.images]
    except InputError:
        return 0
    return sum(info.channels for info in infos)


def find_volume_channels(samples: list[Sample]) -> tuple[int, list[str]]:
    """The most frequent number of channels; the check names the volumes that have another."""
    counts = Counter(found for found in map_threads(_probe_volume_channels, samples[:MAX_PROBES]) if found)
    return counts.most_common(1)[0][0] if counts else 1, []


def _probe_volume_channels(sample: Sample) -> int:
    try:
        return probe_volume(sample.images).channels
    except InputError:
        return 0
