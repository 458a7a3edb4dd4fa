"""Events as TensorBoard curves, with the names that teams expect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from perpixel.errors import import_extra


def tensorboard_sink(folder: str | Path, class_names: list[str]) -> Callable[[dict[str, Any]], None]:
    """A function that writes step and validation events to an event file in `folder`.

    Raises:
        InputError: tensorboard is not installed.
    """
    import_extra("tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def write(event: dict[str, Any]) -> None:
        step = event.get("step", 0)
        if event["kind"] == "step":
            if event["loss"] is not None:
                writer.add_scalar("train/loss", event["loss"], step)
            writer.add_scalar("train/lr", event["lr"], step)
            writer.add_scalar("train/images_per_s", event["images_per_s"], step)
        elif event["kind"] == "validation":
            for name in ("structure_dice", "miou", "pixel_accuracy", "mean_dice"):
                if event.get(name) is not None:
                    writer.add_scalar(f"val/{name}", event[name], step)
            for name, value in zip(class_names, event["iou"]):
                if value is not None:
                    writer.add_scalar(f"val/IoU/{name}", value, step)
        elif event["kind"] in ("end", "stop"):
            writer.flush()

    return write
