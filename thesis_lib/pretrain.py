"""Stage 1: supervised contrastive pretraining of the backbone."""

import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from thesis_lib import augment, checkpoints
from thesis_lib.config import IDENTITY, PRETRAIN, InputError, RunConfig
from thesis_lib.data import DataSet, open_dataset
from thesis_lib.data_statistics import check_readable, data_statistics
from thesis_lib.loaders import EpochBatches, Loader, TwoViews, worker_count
from thesis_lib.losses import SupConLoss
from thesis_lib.models import ContrastiveModel, create_backbone
from thesis_lib.progress import EpochProgress
from thesis_lib.runs import RunDirectory, relative_to_root, write_csv
from thesis_lib.stages import is_pretrained, read_metrics, stage, trained_fingerprint

ROLLING_SECONDS = 60  # last.pth is renewed at the first epoch's end after so long
SMOOTHING_SHARE = 20  # the loss is averaged over a twentieth of the epochs to find its plateau
FEWEST_PROBED = 3


def learning_rate(config: RunConfig, epoch: int, step: int, steps: int) -> float:
    """The learning rate of one step, by the formulas of SupContrast.

    Cosine over E epochs: floor + (peak - floor)(1 + cos(pi e / E)) / 2 with floor = peak x
    decay_rate^3, set once an epoch. Step: peak x decay_rate for each decay epoch passed.
    Warm-up, set every step: linearly from ``warmup_from`` to the schedule's value at the end
    of the warm-up, which takes at most half of all epochs.

    Args:
        config: peak, schedule and warm-up.
        epoch: 1 to ``config.epochs``.
        step: 0 to ``steps - 1`` within the epoch.
        steps: steps in an epoch.
    """
    warmup = min(config.warmup_epochs, config.epochs // 2)
    if epoch > warmup:
        return _scheduled(config, epoch)
    peak = _scheduled(config, warmup) if config.schedule == "cosine" else config.learning_rate
    passed = ((epoch - 1) * steps + step) / (warmup * steps)
    return config.warmup_from + passed * (peak - config.warmup_from)


def _scheduled(config: RunConfig, epoch: int) -> float:
    if config.schedule == "step":
        passed = sum(epoch > decay for decay in config.decay_epochs)
        return config.learning_rate * config.decay_rate**passed
    floor = config.learning_rate * config.decay_rate**3
    wave = (1 + math.cos(math.pi * epoch / config.epochs)) / 2
    return floor + (config.learning_rate - floor) * wave


def choose_device(config: RunConfig) -> torch.device:
    """The device asked for; for ``auto`` a CUDA GPU, else Apple's, else the CPU.

    Raises:
        InputError: for a device that this machine lacks.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if config.device == "auto":
        return torch.device(next(name for name, is_there in there.items() if is_there))
    if not there[config.device]:
        raise InputError(f"device is {config.device!r}, which torch does not find here; use auto")
    return torch.device(config.device)


def check(config: RunConfig) -> tuple[RunDirectory, DataSet, ContrastiveModel]:
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            backbone = create_backbone(config.backbone, config.small_images, config.image_size)
        except ValueError as error:
            raise InputError(str(error)) from None
        return run, dataset, ContrastiveModel(backbone, config.projection_dim)


def check_fingerprint(run: RunDirectory, dataset: DataSet) -> None:
    """Raise InputError where the data set's files are not those that the run was trained on."""
    trained = trained_fingerprint(run)
    if trained is not None and trained != dataset.fingerprint:
        raise InputError(
            f"the files of {relative_to_root(dataset.root)} are not those that "
            f"{run.path.name} was trained on; restore them, or start another run with --tag NAME"
        )


def pretrain(config: RunConfig) -> RunDirectory:
    """Train a backbone with the SupCon loss; go on from the last checkpoint, if there is one.

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
    model.to(device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    criterion = SupConLoss(config.temperature, config.base_temperature)
    train = dataset.splits["train"]
    batches = EpochBatches(len(train), config.batch_size, config.seed)
    views = TwoViews(train, config.image_size, config.seed)
    loader = Loader(views, batches, worker_count(config, device), device.type == "cuda")

    run.write_config()
    rows: list[dict[str, Any]] = []
    if run.last_checkpoint.is_file():
        rows = _resume(run, model, optimizer, dataset)
    kept = set(checkpoints.scheduled_epochs(config))
    facts = {
        "data_fingerprint": dataset.fingerprint,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "memory_mib": total_memory_mib(device),
    }
    progress = EpochProgress(config.epochs, done=len(rows), images=len(train))
    writer = SummaryWriter(run.tensorboard, purge_step=len(rows) + 1)
    saved_at = time.monotonic()

    with stage(run, "pretrain", **facts), writer, progress:
        for epoch in range(len(rows) + 1, config.epochs + 1):
            began = time.perf_counter()
            batches.epoch = epoch
            torch.manual_seed(np.random.SeedSequence((config.seed, epoch)).generate_state(1)[0])
            model.train()
            loss_sum = torch.zeros((), device=device)
            for step, (pixels, colours, labels, _) in enumerate(loader):
                rate = learning_rate(config, epoch, step, len(loader))
                for group in optimizer.param_groups:
                    group["lr"] = rate
                images = augment.to_float(pixels.to(device, non_blocking=True))
                images = augment.change_colour(images, colours.flatten(0, 1).to(device))
                features = model(augment.normalise(images, mean, std))
                # (batch * views, dim) -> (batch, views, dim): an image's views are neighbours
                features = features.unflatten(0, (len(labels), -1))
                loss = criterion(features, labels.to(device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                loss_sum += loss.detach() * len(labels)
                progress.step(len(labels))
                if step == 0 and not rows:
                    writer.add_image("views", make_grid(images[:16].cpu(), nrow=4), epoch)

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
                    "learning_rate": rate,
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


def _resume(
    run: RunDirectory,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: DataSet,
) -> list[dict[str, Any]]:
    """Load the last checkpoint; return the metrics of the epochs up to it."""
    checkpoint = checkpoints.load(run.last_checkpoint)
    if checkpoint["data_fingerprint"] != dataset.fingerprint:
        raise InputError(f"{run.last_checkpoint} was trained on other files than {dataset.root}")
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return checkpoint["metrics"]


def peak_memory_mib(device: torch.device) -> int:
    """Peak memory so far, MiB: reserved on the GPU, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) // 2**20
    used = psutil.Process().memory_info()
    if hasattr(used, "peak_wset"):  # Windows
        return used.peak_wset // 2**20
    import resource  # Unix alone

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def total_memory_mib(device: torch.device) -> int:
    """Memory of the GPU, else of the machine, MiB."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 2**20
    return psutil.virtual_memory().total // 2**20


def smooth(loss: Sequence[float]) -> np.ndarray:
    """Centred moving average over a twentieth of the epochs, shorter towards both ends."""
    half = len(loss) // SMOOTHING_SHARE // 2
    padded = pd.Series(np.asarray(loss, dtype=float))
    return padded.rolling(2 * half + 1, center=True, min_periods=1).mean().to_numpy()


def find_plateau(loss: Sequence[float], epochs: Sequence[int], share: float) -> int | None:
    """The first saved checkpoint after which the smoothed loss has little of its fall to go.

    Args:
        loss: of epochs 1, 2, ...
        epochs: of the saved checkpoints, ascending.
        share: of the total fall (first to last smoothed value) that counts as little.

    Returns:
        The checkpoint's epoch; None where the loss has not fallen at all.
    """
    smoothed = smooth(loss)
    fall = smoothed[0] - smoothed[-1]
    if fall <= 0:
        return None
    return next(e for e in epochs if smoothed[e - 1] - smoothed[-1] < share * fall)


def run_plateau(run: RunDirectory) -> int | None:
    """The plateau of a trained run, among the checkpoints that it keeps."""
    loss = [row["loss"] for row in read_metrics(run)]
    return find_plateau(loss, checkpoints.scheduled_epochs(run.config), run.config.plateau_share)


def epochs_to_probe(run: RunDirectory) -> list[int]:
    """Checkpoints from the plateau (or ``probe_from``) to the last; never fewer than three."""
    scheduled, config = checkpoints.scheduled_epochs(run.config), run.config
    if config.probe_from is not None:
        first = config.probe_from
    else:
        first = run_plateau(run) or scheduled[-1]
    return scheduled[min(-FEWEST_PROBED, -sum(epoch >= first for epoch in scheduled)) :]
