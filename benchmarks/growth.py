"""Time and memory at 1,000, 10,000 and 47,000 images, each size in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from matplotlib import pyplot as plt

from benchmarks.evaluation import evaluate, made_up_test
from benchmarks.pictures import write_pictures
from benchmarks.timing import Result
from thesis_lib import figures
from thesis_lib.config import RunConfig
from thesis_lib.data.cache import Images
from thesis_lib.data.datasets import open_dataset
from thesis_lib.data.splits import split_dataset
from thesis_lib.data.statistics import measure
from thesis_lib.evaluation.features import FrozenBackbone, Labelled, labels_of
from thesis_lib.evaluation.linear_heads import train_heads
from thesis_lib.figures.axes import plain_log_ticks
from thesis_lib.models import create_backbone
from thesis_lib.system.device import peak_memory_mib

SIZES = (1_000, 10_000, 47_000)
CLASSES, PICTURES, SIDE = 20, 500, 128
PLOT = Path(__file__).parent / "results" / "growth"


def write_many(folder: Path, images: int) -> None:
    """Class folders of ``images`` JPEGs, links to PICTURES different files."""
    split = write_pictures(folder / "pictures", PICTURES, SIDE, CLASSES)
    for number in range(images):
        label, copy = number % CLASSES, number // CLASSES % (PICTURES // CLASSES)
        source = split.folder / split.files[label * (PICTURES // CLASSES) + copy]
        target = folder / "classes" / f"class {label:02d}" / f"{number:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)


def stages(images: int) -> None:
    """Print each stage's seconds and the peak memory after it, as JSON, in the working folder."""
    found: dict[str, dict[str, float]] = {}
    cpu = torch.device("cpu")

    def note(stage: str, began: float) -> None:
        seconds = time.perf_counter() - began
        found[stage] = {"seconds": seconds, "peak_mib": peak_memory_mib(cpu)}

    write_many(Path(), images)
    began = time.perf_counter()
    split_dataset(Path("classes"), Path("data"))
    note("split", began)
    began = time.perf_counter()
    dataset = open_dataset("data")
    statistics = measure(dataset)
    note("statistics", began)
    began = time.perf_counter()
    config = RunConfig(backbone="lenet5", image_size=32, head_epochs=20, device="cpu")
    model = create_backbone("lenet5")
    backbone = FrozenBackbone(model, statistics.mean, statistics.std, config)
    train, val = (Images(dataset.splits[name]) for name in ("train", "val"))
    features = backbone.features(train, config.head_views)
    val_features = backbone.features(val)[0]
    data = Labelled(features, labels_of(train.split))
    train_heads(data, Labelled(val_features, labels_of(val.split)), CLASSES, config)
    note("probing", began)
    began = time.perf_counter()
    evaluate(*made_up_test(images), Path("figures"))
    note("evaluation", began)
    print(json.dumps(found))


def growth(rounds: int, device: torch.device) -> Iterator[Result]:
    """Goal 11: microseconds an image at 47,000 images against 10,000, and the peak memory."""
    rows = []
    for images in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
            command = [sys.executable, "-m", "benchmarks.growth", str(images)]
            run = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, check=True
            )
        for stage, measured in json.loads(run.stdout.splitlines()[-1]).items():
            rows.append({"images": images, "stage": stage, **measured})
    table = pd.DataFrame(rows)
    figures.save(_plot(table), PLOT, {"line": "measured by benchmarks/growth.py"})
    for stage, of_stage in table.groupby("stage", sort=False):
        per_image = (1e6 * of_stage["seconds"] / of_stage["images"]).tolist()
        peaks = " / ".join(f"{peak:,.0f}" for peak in of_stage["peak_mib"])
        ratio = per_image[2] / per_image[1]
        yield Result(
            11,
            f"{stage} at 47,000 images; peak memory at 1,000 / 10,000 / 47,000: {peaks} MiB",
            "us an image",
            per_image[2],
            per_image[1],
            "10,000 images",
            ratio,
            "<= 1.3 (linear)",
            ratio <= 1.3,
            {str(size): [s] for size, s in zip(SIZES, of_stage["seconds"], strict=True)},
        )


def _plot(table: pd.DataFrame) -> plt.Figure:
    figures.set_style()
    figure, (time_axes, memory_axes) = plt.subplots(
        1, 2, figsize=figures.figure_size(1.0, 0.42), layout="constrained"
    )
    for stage, rows in table.groupby("stage", sort=False):
        time_axes.plot(rows["images"], rows["seconds"], marker="o", label=stage)
        memory_axes.plot(rows["images"], rows["peak_mib"], marker="o", label=stage)
    linear = table["images"].unique() * table["seconds"].min() / SIZES[0]
    time_axes.plot(SIZES, linear, color="0.6", linestyle="--", label="linear")
    time_axes.set(xscale="log", yscale="log", xlabel="images", ylabel="seconds")
    memory_axes.set(xscale="log", xlabel="images", ylabel="peak memory so far (MiB)")
    for axes in (time_axes, memory_axes):
        axes.set_xticks(SIZES, [f"{size:,}" for size in SIZES])
        axes.minorticks_off()
    plain_log_ticks(time_axes.yaxis)
    memory_axes.set_ylim(0)
    time_axes.legend(loc="lower right")
    return figure


if __name__ == "__main__":
    stages(int(sys.argv[1]))
