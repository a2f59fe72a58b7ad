"""Stage 1: training the backbone: supervised contrastive, SimCLR, or the baseline."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from thesis_lib import augment, checkpoints
from thesis_lib.config import IDENTITY, PRETRAIN, InputError, RunConfig
from thesis_lib.data import DataSet, open_dataset
from thesis_lib.data_statistics import check_readable, data_statistics
from thesis_lib.files import write_csv
from thesis_lib.hardware import (
    choose_device,
    choose_precision,
    peak_memory_mib,
    total_memory_mib,
)
from thesis_lib.images import open_images
from thesis_lib.loaders import (
    EpochBatches,
    Loader,
    RandomViews,
    example_views,
    worker_count,
)
from thesis_lib.losses import SupConLoss
from thesis_lib.models import Classifier, ContrastiveModel, create_backbone, linear_head
from thesis_lib.progress import EpochProgress
from thesis_lib.runs import RunDirectory, relative_to_root
from thesis_lib.schedule import learning_rate
from thesis_lib.stages import (
    is_pretrained,
    stage,
    trained_epochs,
    trained_fingerprint,
)

ROLLING_SECONDS = 60  # last.pth is renewed at the first epoch's end after so long


def create_model(config: RunConfig, classes: int) -> nn.Module:
    """The model that a method trains, with the first weights that the seed gives.

    A backbone with a projection head, or for cross-entropy with a linear classifier.

    Raises:
        InputError: for a backbone, a stem or an image size that will not do.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            backbone = create_backbone(config.backbone, config.small_images, config.image_size)
        except ValueError as error:
            raise InputError(str(error)) from None
        if config.method == "cross-entropy":
            return Classifier(backbone, linear_head(backbone.num_features, classes))
        return ContrastiveModel(backbone, config.projection_dim)


def create_optimizer(config: RunConfig, model: nn.Module) -> torch.optim.SGD:
    """SGD with the run's momentum and weight decay, over all weights."""
    settings = {"momentum": config.momentum, "weight_decay": config.weight_decay}
    return torch.optim.SGD(model.parameters(), lr=config.learning_rate, fused=True, **settings)


def check(config: RunConfig) -> tuple[RunDirectory, DataSet, nn.Module]:
    """Everything that can be refused before a run writes anything.

    Returns:
        The run, its data set, and its model with the first weights.

    Raises:
        InputError: for data, a backbone, an image size or a batch size that will not do, or
            for a run that is there with other settings or was trained on other files.
    """
    run = RunDirectory(config)
    run.check_config((IDENTITY, PRETRAIN))
    dataset = open_dataset(config.data)
    images = len(dataset.splits["train"])
    if config.batch_size > images:
        raise InputError(
            f"batch_size {config.batch_size} is larger than the data set: {config.data}/train "
            f"has {images} images"
        )
    check_fingerprint(run, dataset)
    choose_device(config)
    return run, dataset, create_model(config, len(dataset.classes))


def check_fingerprint(run: RunDirectory, dataset: DataSet) -> None:
    """Raise InputError where the data set's files are not those that the run was trained on."""
    trained = trained_fingerprint(run)
    if trained is not None and trained != dataset.fingerprint:
        raise InputError(
            f"the files of {relative_to_root(dataset.root)} are not those that "
            f"{run.path.name} was trained on; restore them, or start another run with --tag NAME"
        )


def pretrain(config: RunConfig) -> RunDirectory:
    """Train a backbone by the run's method; go on from the last checkpoint, if there is one.

    Writes ``config.json``, ``metrics.csv``, ``tensorboard/`` and ``checkpoints/`` of the run.
    Returns at once where the run has been trained already.

    Raises:
        InputError: see :func:`check`; also for an unreadable image, and for a loss that is
            not finite.
    """
    existing = RunDirectory(config)
    existing.check_config((IDENTITY, PRETRAIN))
    if is_pretrained(existing):
        return existing
    run, dataset, model = check(config)
    statistics = data_statistics(dataset)
    check_readable(statistics)
    mean, std = config.mean or statistics.mean, config.std or statistics.std

    device = choose_device(config)
    model.to(device, memory_format=torch.channels_last)
    optimizer = create_optimizer(config, model)
    train = dataset.splits["train"]
    batches = EpochBatches(len(train), config.batch_size, config.seed, alone=config.views > 1)
    images, cache = open_images(dataset, "train", statistics, config)
    views = RandomViews(images, config.image_size, config.seed, config.views)
    loader = Loader(views, batches, worker_count(config, device), device.type == "cuda")

    run.write_config()
    rows: list[dict[str, Any]] = []
    if run.last_checkpoint.is_file():
        rows = _resume(run, model, optimizer, dataset)
    if config.compile:
        model.compile()  # in place: the names of its weights stay
    kept = set(checkpoints.scheduled_epochs(config))
    facts = {
        "data_fingerprint": dataset.fingerprint,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "memory_mib": total_memory_mib(device),
        "precision": str(choose_precision(config, device)).removeprefix("torch."),
        "compile": config.compile,
        "cache": cache,
    }
    done = trained_epochs(rows)
    progress = EpochProgress(config.epochs, done=done, images=len(train))
    writer = SummaryWriter(run.tensorboard, purge_step=done + 1)
    saved_at = time.monotonic()
    if not rows:
        rows_of_views = example_views(dataset, config, images=8)["views"]
        shown = torch.from_numpy(np.concatenate(rows_of_views)).movedim(-1, 1)
        writer.add_image("views", make_grid(shown, nrow=len(rows_of_views[0])), 1)

    with stage(run, "pretrain", **facts), writer, progress:
        for epoch in range(done + 1, config.epochs + 1):
            began = time.perf_counter()
            batches.epoch = epoch
            torch.manual_seed(np.random.SeedSequence((config.seed, epoch)).generate_state(1)[0])
            loss_sum = train_epoch(config, model, optimizer, loader, mean, std, progress.step)
            mean_loss = loss_sum.item() / len(train)
            if not math.isfinite(mean_loss):
                raise InputError(
                    f"the loss is {mean_loss} in epoch {epoch} of {run.path.name}; lower "
                    f"learning_rate ({config.learning_rate}); checkpoints up to then are sound"
                )
            seconds = time.perf_counter() - began
            rows.append(
                {
                    "epoch": epoch,
                    "loss": mean_loss,
                    "learning_rate": optimizer.param_groups[0]["lr"],
                    "seconds": round(seconds, 3),
                    "images_per_second": round(len(train) / seconds, 1),
                    "peak_memory_mib": peak_memory_mib(device),
                }
            )
            for name in ("loss", "learning_rate", "images_per_second"):
                writer.add_scalar(name, rows[-1][name], epoch)
            if epoch in kept or time.monotonic() - saved_at > ROLLING_SECONDS:
                content = {
                    "config": config.to_dict(),
                    "data_fingerprint": dataset.fingerprint,
                    "classes": dataset.classes,
                    "mean": list(mean),
                    "std": list(std),
                    "metrics": rows,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                }
                if epoch in kept:
                    checkpoints.save(checkpoints.checkpoint_path(run, epoch), content)
                checkpoints.save(run.last_checkpoint, content)
                saved_at = time.monotonic()
            write_csv(run.metrics_file, pd.DataFrame(rows))
            progress.epoch(epoch, mean_loss, rows[-1]["images_per_second"])
    return run


def train_epoch(
    config: RunConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Loader,
    mean: Sequence[float],
    std: Sequence[float],
    done: Callable[[int], None] = lambda images: None,
) -> Tensor:
    """Train for the epoch that ``loader.batches`` is set to.

    Nothing in a step waits for the device: what it computes is read after the last one.

    Args:
        config: method, colours, learning rates.
        model, optimizer: on the device that computes.
        loader: batches of views, as :class:`thesis_lib.loaders.RandomViews` makes them.
        mean, std: channel statistics to normalise with.
        done: called after each step with its number of images.

    Returns:
        The sum of the images' losses, a scalar on the device.
    """
    device = next(model.parameters()).device
    model.train()
    loss_sum = torch.zeros((), device=device)
    for step, (pixels, colours, labels, _) in enumerate(loader):
        rate = learning_rate(config, loader.batches.epoch, step, len(loader))
        for group in optimizer.param_groups:
            group["lr"] = rate
        images = augment.to_float(pixels.to(device, non_blocking=True))
        if config.method != "cross-entropy":  # the baseline's recipe leaves colours alone
            images = augment.change_colour(images, colours.to(device))
        with autocast(config, device):
            outputs = model(augment.normalise(images, mean, std))
            loss = method_loss(config, outputs, labels.to(device, non_blocking=True))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach() * len(labels)
        done(len(labels))
    return loss_sum


def autocast(config: RunConfig, device: torch.device) -> torch.autocast:
    """The context of a forward pass: bfloat16 where ``config.precision`` says so."""
    low = choose_precision(config, device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=low)


def method_loss(config: RunConfig, outputs: Tensor, labels: Tensor) -> Tensor:
    """The loss of one batch: SupCon's, SimCLR's (the same without labels) or cross-entropy.

    Args:
        config: method and temperatures.
        outputs: (batch * views, dim) of unit length, an image's views neighbours; for
            cross-entropy (batch, classes) logits.
        labels: (batch,).
    """
    if config.method == "cross-entropy":
        return nn.functional.cross_entropy(outputs, labels)
    features = outputs.unflatten(0, (len(labels), -1))  # -> (batch, views, dim)
    criterion = SupConLoss(config.temperature, config.base_temperature)
    return criterion(features, labels if config.method == "supcon" else None)


def _resume(
    run: RunDirectory,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: DataSet,
) -> list[dict[str, Any]]:
    """Load the last checkpoint; return the metrics of the epochs up to it."""
    checkpoint = checkpoints.load(run.last_checkpoint)
    if checkpoint["data_fingerprint"] != dataset.fingerprint:
        raise InputError(f"{run.last_checkpoint} was trained on other files than {dataset.root}")
    checkpoints.fit_weights(model, checkpoint["model"], str(run.last_checkpoint))
    if checkpoint["optimizer"] is None:
        raise InputError(
            f"{relative_to_root(run.last_checkpoint)} was imported without the optimizer's state: "
            "its training cannot go on"
        )
    optimizer.load_state_dict(checkpoint["optimizer"])
    return checkpoint["metrics"]
