"""The training step: against the bare step, against the old way; views a core makes; the loss."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import old_way
from benchmarks.pictures import as_dataset, digits, write_pictures
from benchmarks.timing import Result, best, in_turns, median_ratio
from thesis_lib.config import RunConfig
from thesis_lib.data.cache import Images, open_images
from thesis_lib.data.datasets import Split
from thesis_lib.data.framing import Frame
from thesis_lib.data.loaders import EpochBatches, RandomViews, open_loader
from thesis_lib.data.statistics import measure
from thesis_lib.losses import SupConLoss
from thesis_lib.training.engine import autocast, method_loss, train_epoch
from thesis_lib.training.pretraining import create_model
from thesis_lib.training.state import TrainState

MEAN, STD = (0.0418, 0.0353, 0.0409), (0.0956, 0.0911, 0.0769)


class OurEpoch:
    """An epoch of ours over a split, ready to be timed."""

    def __init__(self, config: RunConfig, split: Split, device: torch.device) -> None:
        self.config, self.split = config.updated(device=device.type), split
        self.state = TrainState.create(self.config, create_model(config, 4), MEAN, STD)
        batches = EpochBatches(len(split), config.batch_size, config.seed)
        dataset = as_dataset(train=split)
        images, _ = open_images(dataset, "train", measure(dataset), config)
        views = RandomViews(images, Frame.of(config), config.seed)
        self.loader = open_loader(views, batches, config, device, 2 * config.batch_size)

    def __call__(self) -> None:
        """Train for the next epoch, and wait for the device."""
        self.loader.batches.epoch += 1
        _, loss = train_epoch(self.config, self.state, self.loader)
        loss.item()


class BareEpoch:
    """Forward, backward and optimizer alone, on as many batches that lie in memory."""

    def __init__(self, config: RunConfig, split: Split, device: torch.device) -> None:
        self.config, self.steps = (
            config.updated(device=device.type),
            len(split) // config.batch_size,
        )
        state = TrainState.create(self.config, create_model(config, 4), MEAN, STD)
        self.model, self.optimizer = state.model, state.optimizer
        shape = (2 * config.batch_size, 3, config.image_size, config.image_size)
        self.images = torch.randn(shape, device=device).contiguous(
            memory_format=torch.channels_last
        )
        self.labels = torch.arange(config.batch_size, device=device) % 4

    def __call__(self) -> None:
        """Take the steps, and wait for the device."""
        self.model.train()
        for _ in range(self.steps):
            with autocast(self.config, self.images.device):
                loss = method_loss(self.config, self.model(self.images), self.labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        loss.item()


class OldEpoch:
    """An epoch of the old way over the same images."""

    def __init__(self, config: RunConfig, split: Split, device: torch.device) -> None:
        self.model = create_model(config, 4).to(device)
        settings = {"lr": config.learning_rate, "momentum": 0.9, "weight_decay": 1e-4}
        self.optimizer = torch.optim.SGD(self.model.parameters(), **settings)
        chain = old_way.two_views_chain(config.image_size, MEAN, STD)
        files = [split.folder / file for file in split.files]
        dataset = old_way.TwoCrops(files, split.labels.tolist(), chain)
        workers = 0 if device.type == "cpu" else 8
        self.loader = old_way.loader(dataset, config.batch_size, workers)

    def __call__(self) -> None:
        """Train for an epoch."""
        old_way.train_epoch(self.model, self.loader, self.optimizer, len(self.loader))


def step_against_bare(rounds: int, device: torch.device) -> Iterator[Result]:
    """Goal 1: loader, views, jitter and logging cost little beside the network."""
    gpu = device.type == "cuda"
    settings = {"epochs": 10**6, "learning_rate": 1e-3}
    large = RunConfig(image_size=224, batch_size=64 if gpu else 8, cache="none", **settings)
    cases = [(large, 0.95 if gpu else 0.97)]
    if not gpu:
        small = {"image_size": 32, "small_images": False, "batch_size": 64}
        cases.append((RunConfig(backbone="test_resnet", **small, **settings), 0.85))
    with tempfile.TemporaryDirectory() as folder:
        for config, goal in cases:
            images = config.batch_size * (20 if gpu else 2 if config.image_size == 224 else 10)
            if config is large:
                split = write_pictures(Path(folder) / "jpeg", images)
            else:
                split = digits(Path(folder) / "digits", images)
            ours, bare = OurEpoch(config, split, device), BareEpoch(config, split, device)
            seconds = in_turns(rounds, ours=ours, bare=bare)
            ratio = best(seconds["bare"]) / best(seconds["ours"])
            views = bare.steps * config.batch_size
            yield Result(
                1,
                f"training step, {config.backbone} at {config.image_size} px, batch "
                f"{config.batch_size}",
                "images/s",
                views / best(seconds["ours"]),
                views / best(seconds["bare"]),
                "bare step",
                ratio,
                f">= {goal}",
                ratio >= goal,
                seconds,
            )


def step_against_old(rounds: int, device: torch.device) -> Iterator[Result]:
    """Goal 2: the same step against the old way."""
    gpu = device.type == "cuda"
    config = RunConfig(
        backbone="resnet50" if gpu else "test_resnet",
        image_size=224 if gpu else 32,
        small_images=False,
        batch_size=64,
        epochs=10**6,
        learning_rate=1e-3,
        cache="none" if gpu else "auto",
    )
    goal = 3.0 if gpu else 1.3
    with tempfile.TemporaryDirectory() as folder:
        split = write_pictures(Path(folder), 64 * 20) if gpu else digits(Path(folder), 640)
        timed = {"ours": OurEpoch(config, split, device), "old": OldEpoch(config, split, device)}
        seconds = in_turns(rounds, **timed)
    ratio = median_ratio(seconds["old"], seconds["ours"])
    yield Result(
        2,
        f"training step, {config.backbone} at {config.image_size} px, batch 64",
        "images/s",
        len(split) / best(seconds["ours"]),
        len(split) / best(seconds["old"]),
        "old way",
        ratio,
        f">= {goal}x",
        ratio >= goal,
        seconds,
    )


def views_of_a_core(rounds: int, device: torch.device) -> Iterator[Result]:
    """Goal 3: views a second that one loading process makes of 450 px JPEGs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    with tempfile.TemporaryDirectory() as folder:
        split = write_pictures(Path(folder), 64)
        chain = old_way.two_views_chain(224, MEAN, STD)
        old = old_way.TwoCrops([split.folder / f for f in split.files], split.labels, chain)
        ours = RandomViews(Images(split), Frame(224, "crop"), seed=1)
        seconds = in_turns(
            rounds,
            ours=lambda: ours[[(1, index) for index in range(len(split))]],
            old=lambda: [old[index] for index in range(len(split))],
        )
    torch.set_num_threads(threads)
    ratio, views = median_ratio(seconds["old"], seconds["ours"]), 2 * len(split)
    yield Result(
        3,
        "views of 450 px JPEGs at 224 px, one loading process",
        "views/s",
        views / best(seconds["ours"]),
        views / best(seconds["old"]),
        "PIL chain",
        ratio,
        ">= 5x",
        ratio >= 5,
        seconds,
    )


def loss_share(rounds: int, device: torch.device) -> Iterator[Result]:
    """Goal 7: the loss, forward and backward, beside the whole step at batch 64."""
    config = RunConfig(image_size=224, batch_size=64, epochs=10**6)
    generator = torch.Generator().manual_seed(0)
    features = nn.functional.normalize(torch.randn(64, 2, 128, generator=generator), dim=2)
    features = features.to(device).requires_grad_()
    labels, criterion = torch.arange(64, device=device) % 20, SupConLoss()
    state = TrainState.create(
        config.updated(device=device.type), create_model(config, 4), MEAN, STD
    )
    model, optimizer = state.model, state.optimizer
    # One view of sixteen images costs an eighth of the step; the whole would take minutes.
    part = 1 if device.type == "cuda" else 8
    images = torch.randn(128 // part, 3, 224, 224, device=device)

    def loss_alone() -> None:
        for _ in range(20):
            loss: Tensor = criterion(features, labels)
            loss.backward()
        loss.item()

    def network() -> None:
        with autocast(config, device):
            loss = model.train()(images).square().sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()

    seconds = in_turns(rounds, loss=loss_alone, network=network)
    share = best(seconds["loss"]) / 20 / (part * best(seconds["network"]))
    yield Result(
        7,
        "SupCon loss, forward and backward, ResNet50 at 224 px, batch 64",
        "ms",
        1e3 * best(seconds["loss"]) / 20,
        1e3 * part * best(seconds["network"]),
        "step",
        share,
        "<= 1 %",
        share <= 0.01,
        seconds,
    )
