"""What a second rank gains on the CPU, measured; and what several GPUs would, estimated."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch

from benchmarks.pictures import open_folder, write_organisms
from benchmarks.timing import Result, best, in_turns, median_ratio
from benchmarks.training import MEAN, STD, OurEpoch
from thesis_lib.config import RunConfig
from thesis_lib.data.cache import Images
from thesis_lib.data.datasets import Split
from thesis_lib.data.demo import write_digits
from thesis_lib.evaluation.features import FrozenBackbone
from thesis_lib.system import distributed

CPU = torch.device("cpu")
COMMON = {"image_size": 32, "epochs": 10**6, "learning_rate": 1e-3, "device": "cpu"}
CASES = {  # name -> settings, images of an epoch
    "LeNet-5, batch 64": (RunConfig(backbone="lenet5", batch_size=64, **COMMON), 1280),
    "ResNet-18, batch 64": (RunConfig(backbone="resnet18", batch_size=64, **COMMON), 130),
}
FEATURES_OF = 640  # images

# The thesis's trainings: 1000 epochs of 33,135 images by ResNet50 on one 12 GB GPU took 334,800 s
# at batch 64 and 346,320 s at batch 32 (518 and 1,036 steps an epoch): a line through both.
STEP_SECONDS, VIEW_SECONDS = 0.022, 0.00488
STEPS, VIEWS = 518_000, 128
GRADIENT_BYTES = 4 * 23_508_032 + 4 * 4_458_624  # ResNet50's weights, the projection head's
LINK = 6e9  # bytes a second that two GPUs exchange through PCIe 3.0 x16
NORMALISATIONS, MESSAGE_SECONDS = 53, 40e-6  # each sends a message forward and one backward


def estimated_step(gpus: int) -> float:
    """Seconds of a step of the thesis's ResNet50 at batch 64 on several of its GPUs.

    A step's fixed time stays, its views are shared; gradients go round a ring and nothing of that
    is hidden behind the backward pass; batch normalisation waits for each of its messages; images
    are loaded fast enough.
    """
    if gpus == 1:
        return STEP_SECONDS + VIEWS * VIEW_SECONDS
    ring = 2 * (gpus - 1) / gpus * GRADIENT_BYTES / LINK
    waits = 2 * NORMALISATIONS * MESSAGE_SECONDS
    return STEP_SECONDS + VIEWS / gpus * VIEW_SECONDS + ring + waits


def second_rank(rounds: int, device: torch.device) -> Iterator[Result]:
    """Row 14: two ranks beside one process, each of one thread; and one process of two threads."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "benchmarks.scaling", str(rounds)]
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
    for what, images, seconds in json.loads(run.stdout.splitlines()[-1]):
        for other in ("alone", "two threads"):
            gain = median_ratio(seconds[other], seconds["two ranks"])
            yield Result(
                14,
                f"{what}: two ranks of one thread",
                "images/s",
                images / best(seconds["two ranks"]),
                images / best(seconds[other]),
                {"alone": "one process of one thread", "two threads": "one of two threads"}[other],
                gain,
                "",
                True,
                seconds,
            )


def measure(rounds: int) -> int:
    """On both of two ranks: time each case; rank 0 prints a row a case, as JSON."""
    distributed.from_rank_0(write_images)
    rows = []
    for name, (config, images) in CASES.items():
        with one_rank():
            alone = OurEpoch(config, split_of(images), CPU)
        shared = OurEpoch(config, split_of(images), CPU)
        shared.state.share()
        rows.append((f"training, {name}", images, in_turns(rounds, **timings(alone, shared))))
    config, _ = CASES["ResNet-18, batch 64"]
    images = Images(open_folder(Path("organisms")))
    backbone = FrozenBackbone(alone.state.model.backbone, MEAN, STD, config)

    def extract() -> None:
        backbone.features(images)

    rows.append(("features, ResNet-18", FEATURES_OF, in_turns(rounds, **timings(extract, extract))))
    print(json.dumps(rows), flush=True)
    return 0


def write_images() -> None:
    """The images of all cases."""
    write_organisms(Path("organisms"), 4, FEATURES_OF // 4)
    write_digits(Path("digits/train"))


def timings(alone, shared) -> dict:
    """The same work three ways; where one rank works alone, the other waits."""

    def with_two_threads() -> None:
        torch.set_num_threads(2)
        by_one_rank()
        torch.set_num_threads(1)

    def by_one_rank() -> None:
        if distributed.rank() == 0:
            with one_rank():
                alone()
        distributed.wait_for_all()

    return {"alone": by_one_rank, "two threads": with_two_threads, "two ranks": shared}


def one_rank() -> mock._patch:
    """While the other rank waits, this one computes as if it were alone."""
    return mock.patch.object(distributed, "world_size", return_value=1)


def split_of(images: int) -> Split:
    """So many digits."""
    return open_folder(Path("digits/train"), images // 10)


def print_estimate() -> None:
    """The table in docs/several-gpus.md."""
    print("| GPUs | a step | 1000 epochs | speed-up |\n|---|---|---|---|")
    for gpus in (1, 2, 4, 8):
        seconds = estimated_step(gpus)
        days, gain = STEPS * seconds / 86_400, estimated_step(1) / seconds
        print(f"| {gpus} | {1000 * seconds:.0f} ms | {days:.1f} days | {gain:.1f} |")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print_estimate()
    else:
        raise SystemExit(distributed.run_on_ranks(lambda: measure(int(sys.argv[1]))))
