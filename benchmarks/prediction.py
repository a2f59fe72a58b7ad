"""The memory of `thesis predict` for 1,000 and for 10,000 images, in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from PIL import Image

from benchmarks.timing import Result
from thesis_lib.config import RunConfig
from thesis_lib.evaluation.features import FrozenBackbone
from thesis_lib.evaluation.knn import LookupTable, unit_vectors
from thesis_lib.evaluation.lookup_table import StoredTable
from thesis_lib.models import create_backbone, linear_head
from thesis_lib.prediction.finished_model import FinishedModel
from thesis_lib.prediction.new_images import find_images
from thesis_lib.prediction.predictions import counted, predict_images, write_predictions
from thesis_lib.system.device import peak_memory_mib

FEW, MANY = 1_000, 10_000
CLASSES, PICTURES, SIDE, TABLE = 87, 100, 48, 5_000


def write_small(folder: Path, images: int) -> None:
    """Small PNGs of noise: links to PICTURES different files."""
    rng, folder = np.random.default_rng(0), folder / "new"
    folder.mkdir()
    for number in range(images):
        path = folder / f"{number:06d}.png"
        if number < PICTURES:
            pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        else:
            os.link(folder / f"{number % PICTURES:06d}.png", path)


def made_up_model() -> FinishedModel:
    """An untrained LeNet-5 with a look-up table of random vectors."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    classes = [f"class {label:02d}" for label in range(CLASSES)]
    table = LookupTable(
        unit_vectors(rng.normal(size=(TABLE, 84))),
        rng.integers(0, CLASSES, TABLE),
        [f"train/{number}.png" for number in range(TABLE)],
        classes,
    )
    kept = np.ones((1, TABLE), dtype=bool)
    stored = StoredTable(table, np.ones(1), kept, 1.0, 1, np.linspace(0, 1, 1000), 1, "")
    config = RunConfig(image_size=32, device="cpu")
    backbone = FrozenBackbone(create_backbone("lenet5"), (0.5,) * 3, (0.3,) * 3, config)
    return FinishedModel(
        backbone, linear_head(84, CLASSES), classes, 1.0, stored, "", {}, pd.DataFrame()
    )


def measure() -> None:
    """Print memory after FEW and after MANY images, MiB, and seconds, as JSON."""
    write_small(Path(), MANY)
    images, model, counts = find_images(["new"]), made_up_model(), Counter()
    resident: dict[int, float] = {}

    def noted() -> Iterator:
        for number, one in enumerate(counted(predict_images(model, images), counts), start=1):
            yield one
            if number in (FEW, MANY):
                resident[number] = psutil.Process().memory_info().rss / 2**20

    began = time.perf_counter()
    write_predictions(noted(), Path("out.csv"), CLASSES)
    seconds = time.perf_counter() - began
    assert counts["images"] == MANY and counts["unreadable"] == 0
    found = {"few": resident[FEW], "many": resident[MANY], "seconds": seconds}
    print(json.dumps(found | {"peak": peak_memory_mib(torch.device("cpu"))}))


def flat_memory(rounds: int, device: torch.device) -> Iterator[Result]:
    """Goal 13: memory after 10,000 images against that after 1,000."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.prediction"]
        root = str(Path(__file__).parent.parent)
        run = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=True,
        )
    found = json.loads(run.stdout.splitlines()[-1])
    ratio = found["many"] / found["few"]
    yield Result(
        13,
        f"memory of predicting {MANY:,} images; peak {found['peak']:,} MiB, "
        f"{MANY / found['seconds']:,.0f} images/s",
        "MiB",
        found["many"],
        found["few"],
        f"after {FEW:,} images",
        ratio,
        "<= 1.05 (flat)",
        ratio <= 1.05,
        {"predict": [found["seconds"]]},
    )


if __name__ == "__main__":
    measure()
