"""How many cached crops a head needs: its accuracy against fresh crops in every head epoch."""

import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.pictures import as_dataset, open_folder, write_organisms
from benchmarks.timing import Result
from thesis_lib.config import RunConfig
from thesis_lib.data.cache import open_images
from thesis_lib.data.datasets import Split
from thesis_lib.data.demo import write_digits
from thesis_lib.data.framing import Frame
from thesis_lib.data.loaders import EpochBatches, Loader, RandomViews
from thesis_lib.data.statistics import measure
from thesis_lib.evaluation.features import FrozenBackbone, Labelled, labels_of
from thesis_lib.evaluation.linear_heads import train_heads
from thesis_lib.training.engine import train_epoch
from thesis_lib.training.pretraining import create_model
from thesis_lib.training.state import TrainState

SEEDS, HEAD_EPOCHS = 5, 100
CACHED = (1, 2, 4, 8, 16, 32)
SETS = {"digits": (32, 36, 40), "organisms": (4, 8, 12)}  # the checkpoints (epochs) probed


def halves(split: Split) -> tuple[Split, Split]:
    """A half to train on and one to validate on, by every second image."""
    parts = (range(0, len(split), 2), range(1, len(split), 2))
    return tuple(
        Split(split.folder, [split.files[i] for i in part], split.labels[list(part)])
        for part in parts
    )


def accuracies(
    folder: Path, checkpoints: tuple[int, ...], seed: int, device: torch.device
) -> list[dict[int, float]]:
    """Best validation accuracy of a head by the number of cached crops, of each checkpoint.

    With HEAD_EPOCHS crops each head epoch sees its own: augmentation as fresh as can be.
    """
    train, val = halves(open_folder(folder))
    dataset = as_dataset(train=train, val=val)
    statistics_ = measure(dataset)
    config = RunConfig(
        backbone="test_resnet",
        image_size=32,
        small_images=False,
        batch_size=64,
        seed=seed,
        epochs=max(checkpoints),
        learning_rate=0.1,
        head_epochs=HEAD_EPOCHS,
    )
    classes = int(train.labels.max()) + 1
    config = config.updated(device=device.type)
    model = create_model(config, classes)
    state = TrainState.create(config, model, statistics_.mean, statistics_.std)
    images, val_images = (
        open_images(dataset, name, statistics_, config)[0] for name in ("train", "val")
    )
    batches = EpochBatches(len(train), config.batch_size, seed)
    loader = Loader(RandomViews(images, Frame(32, "crop"), seed), batches, 0, False)
    found = []
    for epoch in range(1, max(checkpoints) + 1):
        batches.epoch = epoch
        train_epoch(config, state, loader)
        if epoch not in checkpoints:
            continue
        backbone = FrozenBackbone(model.backbone, state.mean, state.std, config)
        features = backbone.features(images, HEAD_EPOCHS)
        val_features = backbone.features(val_images)[0]
        found.append({})
        for views in (*CACHED, HEAD_EPOCHS):
            data = Labelled(features[:views], labels_of(train))
            _, rows = train_heads(data, Labelled(val_features, labels_of(val)), classes, config)
            found[-1][views] = max(row["val_accuracy"] for row in rows)
    return found


def cached_views(rounds: int, device: torch.device) -> Iterator[Result]:
    """Goal 5: mean difference over seeds and checkpoints, in points, with its standard error."""
    default = RunConfig().head_views
    for name, checkpoints in SETS.items():
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            images = Path(folder) / "train"
            write_digits(images) if name == "digits" else write_organisms(images, 20, 200)
            count = len(open_folder(images))
            found = [
                row
                for seed in range(SEEDS)
                for row in accuracies(images, checkpoints, seed, device)
            ]
        fresh = 100 * statistics.mean(row[HEAD_EPOCHS] for row in found)
        for views in CACHED:
            differences = [100 * (row[views] - row[HEAD_EPOCHS]) for row in found]
            mean = statistics.mean(differences)
            error = np.std(differences, ddof=1) / np.sqrt(len(differences))
            chosen = " (the default)" if views == default else ""
            yield Result(
                5,
                f"{name}, {count:,} images, {SEEDS} seeds, checkpoints {checkpoints}: "
                f"{views} cached crops{chosen}, difference {mean:+.2f} +- {error:.2f} points",
                "%",
                fresh + mean,
                fresh,
                "fresh crops every head epoch",
                abs(mean),
                "<= 0.1 points" if views == default else "",
                abs(mean) <= 0.1,
            )
