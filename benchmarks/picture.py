"""The picture of the README: one row of an evaluation's cases, image | truth | prediction | error.

python benchmarks/picture.py demo/runs/cells docs/pictures/demo.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

GAP = 6


def main() -> None:
    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    folder = run / "evaluation" / "test"
    cases = json.loads((folder / "scores.json").read_text())["cases"]
    case = next(case for case in cases if case["rank"] == "median")
    panels = [np.array(Image.open(folder / case["files"][kind])) for kind in ("image", "truth", "prediction", "error")]
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    row = [part for panel in panels for part in (panel, gap)][:-1]
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(row, axis=1)).save(out, optimize=True)


if __name__ == "__main__":
    main()
