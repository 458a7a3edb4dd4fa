"""Objects as COCO writes them: entries of a results file (predictions) or of a list of annotations (truths)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perpixel.errors import InputError
from perpixel.labels.instances import Instances


def coco_entries(
    instances: Instances, *, image_id: int, category_ids: Sequence[int | None], first_id: int = 1
) -> list[dict[str, Any]]:
    """One entry an object, its mask as compressed run lengths. Void regions, which have no category, are left out.

    Args:
        category_ids: by class index; None for a class without one (background).
        first_id: id of the first annotation; results, which have scores, carry none.
    Raises:
        InputError: an object of a class without a category id.
    """
    entries: list[dict[str, Any]] = []
    for index in range(len(instances)):
        kind = int(instances.classes[index])
        category = category_ids[kind] if kind < len(category_ids) else None
        if category is None:
            if instances.is_crowd[index]:
                continue
            raise InputError(f"object {index} has class {kind}, which has no category id: give one in category_ids")
        x0, y0, x1, y1 = instances.boxes[index].tolist()
        entry = {
            "image_id": image_id,
            "category_id": category,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "segmentation": {"size": list(instances.size), "counts": instances.masks.text(index)},
        }
        if instances.scores is None:
            entry |= {"id": first_id + len(entries), "area": float(instances.areas[index])}
            entry["iscrowd"] = int(instances.is_crowd[index])
        else:
            entry["score"] = float(instances.scores[index])
        entries.append(entry)
    return entries
