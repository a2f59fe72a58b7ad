"""Compare how residual blocks start: the last normalisation with zeros (timm) or with ones.

SupContrast's own ResNets start with ones.

    python -m benchmarks.residual_start classes/digits:32 classes/flowcam:64 --epochs 15 40

After a colon: the image size. For each of five seeds, the class folders are split 70/15/15, and a
small residual network (timm's ``test_resnet``) is trained with SupCon from random weights.

Prints a Markdown table: loss of the last epoch and validation accuracy of the linear head, each as
mean over the seeds and standard deviation.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thesis_lib.config import RunConfig
from thesis_lib.data.splits import split_dataset
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.training.pretraining import pretrain

SEEDS = range(42, 47)
SETTINGS: dict[str, Any] = {
    "backbone": "test_resnet",
    "batch_size": 32,
    "small_images": False,
    "learning_rate": 0.1,
    "head_views": 0,
    "device": "cpu",
}


def measure(config: RunConfig) -> tuple[float, float]:
    """Return the loss of the last epoch and the validation accuracy (%) of its linear head."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        run = pretrain(config)
        accuracy = probe_checkpoints(run)["val_accuracy"].iloc[-1]
    return read_metrics(run)[-1]["loss"], 100 * accuracy


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.residual_start")
    parser.add_argument("sources", nargs="+", metavar="FOLDER:SIZE")
    parser.add_argument("--epochs", nargs="+", type=int, default=[15, 40, 300])
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(
        "| images | epochs | starts with | loss | validation accuracy (%) |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as empty:
        parted = (source.rpartition(":") for source in options.sources)
        sources = [(Path(folder).resolve(), int(size)) for folder, _, size in parted]
        with contextlib.chdir(empty):
            for source, size in sources:
                _compare(source, size, options.epochs)


def _compare(source: Path, size: int, all_epochs: list[int]) -> None:
    for seed in SEEDS:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            split_dataset(source, Path(f"data/{source.name}-{seed}"), "linear-head", seed=seed)
    for epochs in all_epochs:
        for words, zero_init_last in (("zeros", True), ("ones", False)):
            found = []
            for seed in SEEDS:
                own = {"data": f"data/{source.name}-{seed}", "seed": seed, "image_size": size}
                own |= {"zero_init_last": zero_init_last, "tag": f"{words}-{epochs}"}
                own |= {"epochs": epochs, "save_every": epochs}
                found.append(measure(RunConfig.from_dict({**SETTINGS, **own})))
                print(source.name, epochs, words, seed, *found[-1], file=sys.stderr, flush=True)
            shown = [f"{np.mean(v):.2f} ± {np.std(v, ddof=1):.2f}" for v in np.array(found).T]
            print(f"| {source.name} | {epochs} | {words} |", " | ".join(shown), "|", flush=True)


if __name__ == "__main__":
    main()
