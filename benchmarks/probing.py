"""Probing: features once against the backbone in every head epoch; many heads against one."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.timing import Result, best, in_turns, median_ratio
from benchmarks.training import MEAN, STD, digits
from thesis_lib import augment
from thesis_lib.config import RunConfig
from thesis_lib.features import extract_features, labels_of
from thesis_lib.loaders import FeatureViews
from thesis_lib.models import create_backbone, linear_head
from thesis_lib.probe import train_heads

CHECKPOINTS, HEAD_EPOCHS = 9, 100


def features_once(rounds: int, device: torch.device) -> Iterator[Result]:
    """Goal 4: 9 checkpoints x 100 head epochs; the old way's two epochs are scaled up."""
    config = RunConfig(
        backbone="test_resnet", image_size=32, small_images=False, head_epochs=HEAD_EPOCHS
    )
    backbone = create_backbone(config.backbone, False, 32).to(device).eval()
    with tempfile.TemporaryDirectory() as folder:
        split = digits(Path(folder), 1000)
        labels = labels_of(split).to(device)

        def ours() -> None:
            for _ in range(CHECKPOINTS):
                features = extract_features(backbone, split, config, MEAN, STD, device).to(device)
                train_heads(features, labels, features[0], labels, 10, config)

        def old() -> None:
            """Two head epochs of one checkpoint: images read, backbone run, head trained."""
            head = linear_head(backbone.num_features, 10).to(device)
            optimizer = torch.optim.SGD(head.parameters(), lr=0.25, momentum=0.9)
            images = FeatureViews(split, 32, seed=1)
            for _ in range(2):
                for batch in torch.randperm(len(split)).split(config.head_batch_size):
                    pixels = torch.stack([torch.from_numpy(images[int(i)]) for i in batch])
                    views = augment.normalise(augment.to_float(pixels.to(device)), MEAN, STD)
                    with torch.no_grad():
                        features = backbone(views)
                    loss = torch.nn.functional.cross_entropy(head(features), labels[batch])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()

        seconds = in_turns(rounds, ours=ours, old=old)
    whole = [s * CHECKPOINTS * HEAD_EPOCHS / 2 for s in seconds["old"]]
    ratio = median_ratio(whole, seconds["ours"])
    yield Result(
        4,
        "probing 9 checkpoints x 100 head epochs, test_resnet, 1,000 images of 32 px",
        "s",
        best(seconds["ours"]),
        best(whole),
        "backbone in every head epoch",
        ratio,
        ">= 90x",
        ratio >= 90,
        seconds,
    )


def many_heads(rounds: int, device: torch.device) -> Iterator[Result]:
    """Goal 6: 13 head learning rates in one pass against one."""
    images, width, classes = 8192, 2048, 87
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, images, width, generator=generator).to(device)
    labels = torch.randint(0, classes, (images,), generator=generator).to(device)
    rates = tuple(0.001 * 2.0**k for k in range(13))

    def pass_of(rates: tuple[float, ...]) -> None:
        config = RunConfig(head_learning_rates=rates, head_epochs=2)
        train_heads(features, labels, features[0, :1024], labels[:1024], classes, config)

    seconds = in_turns(rounds, one=lambda: pass_of((0.25,)), many=lambda: pass_of(rates))
    ratio = median_ratio(seconds["many"], seconds["one"])
    yield Result(
        6,
        f"13 head learning rates in one pass, {images:,} features of {width}, {classes} classes",
        "s",
        best(seconds["many"]),
        best(seconds["one"]),
        "one learning rate",
        ratio,
        "<= 2x",
        ratio <= 2,
        seconds,
    )
