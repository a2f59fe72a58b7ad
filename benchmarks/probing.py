"""Probing: features once against the backbone in every head epoch; many heads against one."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.pictures import digits, write_pictures
from benchmarks.timing import Result, best, in_turns, median_ratio
from benchmarks.training import MEAN, STD
from thesis_lib.config import RunConfig
from thesis_lib.data import transforms
from thesis_lib.data.cache import Images
from thesis_lib.data.framing import Frame
from thesis_lib.data.loaders import FeatureViews
from thesis_lib.evaluation.features import FrozenBackbone, Labelled, labels_of
from thesis_lib.evaluation.linear_heads import train_heads
from thesis_lib.models import create_backbone, linear_head

CHECKPOINTS, HEAD_EPOCHS = 9, 100
CASES = (  # backbone, image size, images, cached views (0: the central one), goal
    ("resnet18", 96, 384, 0, 90),
    ("resnet18", 96, 384, 4, 90 / 4),
    ("test_resnet", 32, 1000, 0, 90),
)


def features_once(rounds: int, device: torch.device) -> Iterator[Result]:
    """Goal 4: 9 checkpoints x 100 head epochs, for each of CASES."""
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            yield _features_once(Path(folder), min(rounds, 3), device, *case)


def _features_once(  # noqa: PLR0913
    folder: Path,
    rounds: int,
    device: torch.device,
    name: str,
    size: int,
    images: int,
    views: int,
    goal: float,
) -> Result:
    settings = {"image_size": size, "head_epochs": HEAD_EPOCHS, "device": device.type}
    config = RunConfig(backbone=name, **settings)
    backbone = create_backbone(name, False, size)
    backbone.to(device, memory_format=torch.channels_last).eval()
    is_small = name == "test_resnet"
    split = digits(folder, images) if is_small else write_pictures(folder, images, side=128)
    train, labels = Images(split), labels_of(split).to(device)
    classes = int(labels.max()) + 1

    def ours() -> None:
        for _ in range(CHECKPOINTS):
            features = FrozenBackbone(backbone, MEAN, STD, config).features(train, views)
            features = features.to(device)
            train_heads(Labelled(features, labels), Labelled(features[0], labels), classes, config)

    def old() -> None:
        """Two head epochs of one checkpoint: images read, backbone run, head trained."""
        head = linear_head(backbone.num_features, classes).to(device)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.25, momentum=0.9)
        dataset = FeatureViews(train, Frame(size, "crop"), seed=1, num_views=min(views, 1))
        for _ in range(2):
            for batch in torch.randperm(len(split)).split(config.head_batch_size):
                pixels, batch = dataset[batch.tolist()].to(device), batch.to(device)
                with torch.no_grad():
                    features = backbone(
                        transforms.normalize(transforms.to_float(pixels), MEAN, STD)
                    )
                loss = torch.nn.functional.cross_entropy(head(features), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    seconds = in_turns(rounds, ours=ours, old=old)
    whole = [s * CHECKPOINTS * HEAD_EPOCHS / 2 for s in seconds["old"]]  # it took two epochs of one
    ratio = median_ratio(whole, seconds["ours"])
    kept = f"{views} cached crops" if views else "no augmentation"
    return Result(
        4,
        f"probing {CHECKPOINTS} checkpoints x {HEAD_EPOCHS} head epochs, {name} at {size} px, "
        f"{images:,} images, {kept}",
        "s",
        best(seconds["ours"]),
        best(whole),
        "backbone in every head epoch",
        ratio,
        f">= {goal:g}x",
        ratio >= goal,
        seconds,
    )


def many_heads(rounds: int, device: torch.device) -> Iterator[Result]:
    """Goal 6: 13 head learning rates in one pass against one: a checkpoint's probing, and heads."""
    rates = tuple(0.001 * 2.0**k for k in range(13))
    with tempfile.TemporaryDirectory() as folder:
        split = write_pictures(Path(folder), 384, side=128)
        train, labels = Images(split), labels_of(split).to(device)
        backbone = create_backbone("resnet18", False, 96)

        def probing(rates: tuple[float, ...]) -> None:
            config = RunConfig(image_size=96, head_learning_rates=rates, device=device.type)
            features = FrozenBackbone(backbone, MEAN, STD, config).features(train, views=4)
            features = features.to(device)
            train_heads(Labelled(features, labels), Labelled(features[0], labels), 4, config)

        what = "a checkpoint's probing, 13 head learning rates, resnet18 at 96 px, 384 images"
        yield _against_one(what, probing, rates, rounds)

    images, width, classes = 8192, 2048, 87
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, images, width, generator=generator).to(device)
    many_labels = torch.randint(0, classes, (images,), generator=generator).to(device)

    def heads(rates: tuple[float, ...]) -> None:
        config = RunConfig(head_learning_rates=rates, head_epochs=2)
        val = Labelled(features[0, :1024], many_labels[:1024])
        train_heads(Labelled(features, many_labels), val, classes, config)

    what = f"the heads alone (13 times the arithmetic), {images:,} features of {width}, 87 classes"
    yield _against_one(what, heads, rates, rounds)


def _against_one(what: str, timed, rates: tuple[float, ...], rounds: int) -> Result:
    seconds = in_turns(rounds, one=lambda: timed((0.25,)), many=lambda: timed(rates))
    ratio = median_ratio(seconds["many"], seconds["one"])
    ours, one = best(seconds["many"]), best(seconds["one"])
    return Result(6, what, "s", ours, one, "one learning rate", ratio, "<= 2x", ratio <= 2, seconds)
