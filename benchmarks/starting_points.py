"""Compare starting points: random forest, frozen, fine-tuned and SupCon, on your class folders.

    python -m benchmarks.starting_points classes/zooscan:31 classes/flowcam

After a colon: the rows of a burnt-in legend to cut off the bottom of each image. For each of five
seeds, the class folders are split 70/15/15 (``--recipe linear-head``), and each run goes through
pretraining, probing and final test. EfficientNet-Lite0 starts from the demo's ImageNet weights.

Prints a Markdown table: mean test accuracy over the seeds with the 95 % t interval of the mean,
and the median time that a run takes. The splits of the seeds share images, so the interval is
somewhat too narrow.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t

from thesis_lib.config import RunConfig
from thesis_lib.data.demo import PRETRAINED, prepare_demo_weights
from thesis_lib.data.splits import split_dataset
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.evaluation.testing import final_test
from thesis_lib.training.pretraining import pretrain

SEEDS = range(42, 47)
COMMON: dict[str, Any] = {"batch_size": 16, "head_views": 0, "device": "cpu"}
LITE0: dict[str, Any] = {**COMMON, **PRETRAINED, "backbone": "efficientnet_lite0"}
FINE_TUNED = {
    "method": "cross-entropy",
    "image_size": 128,
    "epochs": 20,
    "save_every": 20,
    "warmup_epochs": 2,
    "learning_rate": 0.02,
    "backbone_learning_rate": 0.005,
}
SUPCON = {
    "backbone": "test_resnet",
    "image_size": 64,
    "epochs": 100,
    "save_every": 50,
    "learning_rate": 0.05,
    "small_images": False,
    "zero_init_last": False,
}
RUNS: dict[str, dict[str, Any]] = {
    "regions, random forest": {**COMMON, "method": "regions"},
    "frozen Lite0, linear head": {**LITE0, "method": "frozen"},
    "frozen Lite0, random forest on 50 components": {
        **LITE0,
        "method": "frozen",
        "head": "forest",
        "tag": "forest",
    },
    "Lite0 fine-tuned with cross-entropy, 128 px, 20 epochs": {**LITE0, **FINE_TUNED},
    "SupCon from random weights, test_resnet, 64 px, 100 epochs": {**COMMON, **SUPCON},
}


def measure(settings: dict[str, Any]) -> tuple[float, float]:
    """Return the test accuracy (%) of a run and the seconds that it took."""
    began = time.perf_counter()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        run = pretrain(RunConfig.from_dict(settings))
        probe_checkpoints(run)
        accuracy = final_test(run)["accuracy"]
    return 100 * accuracy, time.perf_counter() - began


def row(name: str, found: list[tuple[float, float]]) -> str:
    """Return a row of the table: mean accuracy with its interval, and the median time."""
    accuracies, seconds = np.array(found).T
    n = len(accuracies)
    half = t.ppf(0.975, n - 1) * accuracies.std(ddof=1) / np.sqrt(n)
    shown = (
        f"{accuracies.mean():.1f} ({accuracies.mean() - half:.1f}–{accuracies.mean() + half:.1f})"
    )
    return f"| {name} | {shown} | {np.median(seconds) / 60:.1f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.starting_points")
    parser.add_argument("sources", nargs="+", metavar="FOLDER[:ROWS]")
    sources = [source.partition(":") for source in parser.parse_args().sources]
    folders = [(Path(folder).resolve(), int(rows or 0)) for folder, _, rows in sources]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print("| images | run | test accuracy (%) | minutes |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as workbook, contextlib.chdir(workbook):
        prepare_demo_weights()
        for folder, rows in folders:
            found = defaultdict(list)
            for seed in SEEDS:
                data = f"data/{folder.name}-{seed}"
                with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                    split_dataset(folder, Path(data), "linear-head", seed=seed)
                for name, settings in RUNS.items():
                    own = {"data": data, "seed": seed, "crop_bottom": rows}
                    found[name].append(measure({**settings, **own}))
                    print(folder.name, seed, name, found[name][-1], file=sys.stderr, flush=True)
            for name, measured in found.items():
                print(f"| {folder.name} {row(name, measured)}", flush=True)


if __name__ == "__main__":
    main()
