"""How often does a run that is killed without warning end in the bits of one that was not?

    python benchmarks/kill_resume.py --runs 20

Trains once to the end, then `--runs` times with `kill -9` at random moments (data check, planning, between and inside
steps, while a checkpoint is written), each time resumed until done, and compares the bytes of model.safetensors.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from perpixel.data.synthetic import write_demo

# A checkpoint every 0.2 s, so that some kills fall into the writing of one.
TRAIN = """
import sys, perpixel
options = {"width": 8, "depth": 3, "dropout": 0.1}
perpixel.train(sys.argv[1], out=sys.argv[2], model="unet", options=options, batch_size=2, crop=(64, 64), epochs=60,
               checkpoint_every_s=0.2)
"""
RESUME = "import sys, perpixel; perpixel.resume(sys.argv[1])"


def start(code: str, *arguments: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def digest(run: Path) -> str:
    return hashlib.sha256((run / "bundle" / "model.safetensors").read_bytes()).hexdigest()


def killed_run(data: Path, run: Path, rng: random.Random, kills: int, longest_s: float) -> int:
    """Train with `kills` kills; returns how many hit a living process."""
    hits = 0
    for _ in range(kills + 1):
        begun = (run / "config.json").is_file()
        process = start(RESUME, run) if begun else start(TRAIN, data, run)
        if hits + 1 <= kills:
            try:
                process.wait(timeout=rng.uniform(0.2, longest_s))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                hits += 1
                continue
        if process.wait() != 0:
            raise SystemExit(f"{run}: exit code {process.returncode}")
        return hits
    return hits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=2, help="kills a run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = write_demo(root / "data", num_train=8, num_val=2, num_test=2, size=(96, 96))
        began = time.perf_counter()
        if start(TRAIN, data, root / "whole").wait() != 0:
            raise SystemExit("the uninterrupted run failed")
        seconds = time.perf_counter() - began
        want, same, hits = digest(root / "whole"), 0, 0
        for number in range(options.runs):
            hits += killed_run(data, root / f"run{number}", rng, options.kills, seconds)
            same += digest(root / f"run{number}") == want
            print(f"{number + 1} runs, {hits} kills, {same} bit-identical", flush=True)
    raise SystemExit(0 if same == options.runs else 1)


if __name__ == "__main__":
    main()
