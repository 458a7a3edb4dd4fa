"""Draws docs/pictures/need_a_net.png from the tables of docs/need_a_net.md: python docs/figures/need_a_net.py"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DOCS = Path(__file__).resolve().parent.parent
ROW = re.compile(r"^\| `(\w+)` \| [^|]* \| (\d+) \| ([\d.]+) \(([\d.]+) to ([\d.]+)\)", re.MULTILINE)
COLOURS = {"pixel_forest": "#a16207", "texton_forest": "#10b981", "patch_cnn": "#a855f7", "fcn_resnet": "#f59e0b",
           "unet": "#3b82f6"}  # fmt: skip


def main() -> None:
    _, isbi, camvid = (DOCS / "need_a_net.md").read_text(encoding="utf-8").split("\n## ")[:3]
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.6), dpi=150, sharex=True)
    for axes, text, title in zip(panels, (isbi, camvid), ("ISBI EM, 2 classes", "CamVid, 11 classes")):
        for name, seconds, *scores in ROW.findall(text):
            x, (miou, low, high) = float(seconds), map(float, scores)
            axes.plot([x, x], [low, high], color=COLOURS[name], linewidth=2)
            axes.plot(x, miou, "o", color=COLOURS[name], markersize=8)
            left = x > 200
            beside, align = ((-9, 0), "right") if left else ((9, 7), "left")
            axes.annotate(name, (x, miou), xytext=beside, textcoords="offset points", fontsize=9, color=COLOURS[name],
                          ha=align, va="center")  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlim(20, 450)
        axes.set_xticks([30, 60, 120, 300], ["30 s", "1 min", "2 min", "5 min"])
        axes.minorticks_off()
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("training on one core")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("test mIoU (line: 95 % over images)")
    figure.tight_layout()
    figure.savefig(DOCS / "pictures" / "need_a_net.png")


if __name__ == "__main__":
    main()
