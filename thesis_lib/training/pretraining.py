"""Pretrain a backbone (stage 1) with SupCon, SimCLR or the cross-entropy baseline."""

import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from thesis_lib.config import IDENTITY, PRETRAIN, RunConfig
from thesis_lib.data.cache import Images, Source, open_images
from thesis_lib.data.datasets import DataSet, open_dataset
from thesis_lib.data.loaders import (
    EpochBatches,
    Loader,
    RandomViews,
    example_views,
    worker_count,
)
from thesis_lib.data.statistics import DataStatistics, data_statistics, readable
from thesis_lib.errors import InputError
from thesis_lib.models import Classifier, ContrastiveModel, create_backbone, linear_head
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.provenance import stage
from thesis_lib.runs.stages import is_pretrained
from thesis_lib.system import distributed
from thesis_lib.system.device import (
    choose_device,
    peak_memory_mib,
    precision_name,
    total_memory_mib,
)
from thesis_lib.system.files import sweep_partial, write_csv, write_json
from thesis_lib.system.locks import locked
from thesis_lib.system.paths import data_runs_folder, figures_folder, relative_to_root
from thesis_lib.system.progress import EpochProgress
from thesis_lib.system.signals import deferred_signals
from thesis_lib.system.torch_errors import translate_torch_errors
from thesis_lib.training import checkpoints, resume
from thesis_lib.training.code_version import CODE_VERSION
from thesis_lib.training.engine import NotFiniteError, create_optimizer, train_epoch
from thesis_lib.training.launcher import run_under_torchrun
from thesis_lib.training.resume import Position
from thesis_lib.training.stage import check_fingerprint


def create_model(config: RunConfig, num_classes: int) -> nn.Module:
    """Create the model to train, with initial weights drawn from the run's seed.

    It is a backbone with a projection head, or with a linear head for cross-entropy.

    Raises:
        InputError: if the backbone is unknown, or its stem or image size is not supported.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            backbone = create_backbone(config.backbone, config.small_images, config.image_size)
        except ValueError as error:
            raise InputError(str(error)) from None
        if config.method == "cross-entropy":
            return Classifier(backbone, linear_head(backbone.num_features, num_classes))
        return ContrastiveModel(backbone, config.projection_dim)


def check_run(config: RunConfig) -> tuple[RunDirectory, DataSet, nn.Module]:
    """Check everything that can be checked before a run writes its first file.

    Returns:
        The run, its data set, and its model with initial weights.

    Raises:
        InputError: if the data, backbone, image size or batch size cannot be used, or if the run
            exists already and has other settings or was trained on other files.
    """
    run = RunDirectory(config)
    if not config.force:
        run.check_config((IDENTITY, PRETRAIN))
    dataset = open_dataset(config.data)
    num_images = len(dataset.splits["train"])
    if config.batch_size > num_images:
        raise InputError(
            f"batch_size {config.batch_size} is larger than the data set: {config.data}/train "
            f"has {num_images} images"
        )
    ranks = distributed.world_size() if distributed.world_size() > 1 else config.devices
    fewest = -(-2 // config.views) * ranks  # batch normalisation needs two views per rank
    if ranks > 1 and config.batch_size < fewest:
        raise InputError(
            f"batch_size {config.batch_size} cannot be shared by {ranks} processes (it counts the "
            f"images of all of them); set it to {fewest} or more, or use fewer devices"
        )
    if not config.force:
        check_fingerprint(run, dataset)
    choose_device(config)
    return run, dataset, create_model(config, len(dataset.classes))


def pretrain(config: RunConfig) -> RunDirectory:
    """Train a backbone with the run's method, or resume from its last checkpoint.

    Writes ``config.json``, ``metrics.csv``, ``tensorboard/`` and ``checkpoints/`` of the run.
    Returns at once if the run is trained already. On SIGTERM or Ctrl-C, training finishes the
    current step, saves a checkpoint and stops.

    Raises:
        InputError: see :func:`check_run`, :func:`thesis_lib.training.resume.restore`,
            :func:`thesis_lib.training.resume.check_space` and
            :func:`thesis_lib.training.resume.limit_restarts`; also if another process is using
            the run, an image is unreadable, a value is not finite, memory or disk space run out,
            or data-loading workers die or hang.
    """
    existing = RunDirectory(config)
    if is_pretrained(existing) and not config.force:
        existing.check_config((IDENTITY, PRETRAIN))
        return existing
    run, dataset, model = check_run(config)
    if run_under_torchrun("pretrain", run):
        return run
    statistics = data_statistics(dataset)
    dataset = readable(dataset, statistics, config)
    batch = f"batch_size {config.batch_size}"
    with locked(run.path), translate_torch_errors(batch, config.worker_timeout):
        sweep_partial(run.path, older_than=0)
        for folder in (data_runs_folder(dataset.name), figures_folder(dataset.name)):
            sweep_partial(folder)
        _train(run, dataset, statistics, model)
    return run


def _train(
    run: RunDirectory, dataset: DataSet, statistics: DataStatistics, model: nn.Module
) -> None:
    """Restore the newest checkpoint, if there is one, and train to the last epoch."""
    config, device = run.config, choose_device(run.config)
    mean, std = config.mean or statistics.mean, config.std or statistics.std
    model.to(device, memory_format=torch.channels_last)
    optimizer = create_optimizer(config, model)
    rows, position, facts = resume.restore(run, model, optimizer, dataset, mean, std)
    with resume.limit_restarts(run, position):
        images, cache = open_images(dataset, "train", statistics, config)
        resume.check_space(run, model, position.epoch - 1)
        run.write_config()
        if rows:  # the run may have been killed between saving a checkpoint and its row
            write_csv(run.metrics_file, pd.DataFrame(rows))
        if config.compile:
            model.compile()  # in place, which keeps the names of the weights
        facts |= {
            "data_fingerprint": dataset.fingerprint,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "memory_mib": total_memory_mib(device),
            "precision": precision_name(config),
            "compile": config.compile,
            "cache": cache,
            "ranks": distributed.world_size(),
            "code": CODE_VERSION,
        }
        with stage(run, "pretrain", **facts), distributed.report_worker_errors():
            _train_epochs(run, dataset, images, (mean, std), model, optimizer, rows, position)


def _train_epochs(  # noqa: PLR0913
    run: RunDirectory,
    dataset: DataSet,
    images: Images,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
    model: nn.Module,
    optimizer: torch.optim.SGD,
    rows: list[dict[str, Any]],
    position: Position,
) -> None:
    """Run the training loop: epochs, checkpoints, ``metrics.csv`` and TensorBoard logs."""
    config, device, n = run.config, choose_device(run.config), len(images)
    momentum = resume.optimizer_state_on_cpu(optimizer)
    mean, std = normalisation
    arguments = (config, images.source, len(dataset.classes), mean, std, momentum, position)
    distributed.call_on_workers(_help, *arguments)
    trained = distributed.data_parallel(model)
    loader = _loader(config, images)
    batches = loader.batches
    progress = EpochProgress(config.epochs, done=position.epoch - 1, num_images=n)
    writer = SummaryWriter(run.tensorboard, purge_step=position.epoch)
    if not rows:
        rows_of_views = example_views(dataset, config, num_images=8)["views"]
        shown = torch.from_numpy(np.concatenate(rows_of_views)).movedim(-1, 1)
        writer.add_image("views", make_grid(shown, nrow=len(rows_of_views[0])), 1)
    kept = set(checkpoints.scheduled_epochs(config))
    # The position saved in last.pth; it does not exist if it was damaged.
    saved = position if run.last_checkpoint.is_file() else Position()
    saved_at = time.monotonic()

    with writer, progress, loader, deferred_signals() as deferral:

        def leave_after(num_images: int) -> bool:
            progress.step(num_images)
            return distributed.should_stop(deferral)

        while position.epoch <= config.epochs and not distributed.should_stop(deferral):
            epoch, began = position.epoch, time.perf_counter()
            batches.epoch, batches.start = epoch, position.step
            common = (trained, optimizer, loader, *normalisation, position.loss_sum, leave_after)
            step, loss_sum = _train_epoch(run, *common)
            seconds = position.seconds + time.perf_counter() - began
            position = Position(epoch, step, loss_sum, seconds)
            is_whole = step == len(batches)
            if is_whole:
                rows.append(_metrics_row(position, n, optimizer, device))
                position = Position(epoch + 1)
            waited = time.monotonic() - saved_at >= 60 * config.rolling_minutes
            if (is_whole and epoch in kept) or waited:
                checkpoint = resume.checkpoint_content(
                    config, dataset, mean, std, rows, position, model, optimizer
                )
                if is_whole and epoch in kept:
                    checkpoints.save(checkpoints.checkpoint_path(run, epoch), checkpoint)
                resume.save_rolling(run, checkpoint)
                saved, saved_at = position, time.monotonic()
            if is_whole:
                for name in ("loss", "learning_rate", "images_per_second"):
                    writer.add_scalar(name, rows[-1][name], epoch)
                write_csv(run.metrics_file, pd.DataFrame(rows))
                progress.epoch(epoch, rows[-1]["loss"], rows[-1]["images_per_second"])
        if position != saved:
            content = (config, dataset, mean, std, rows, position, model, optimizer)
            resume.save_rolling(run, resume.checkpoint_content(*content))
        distributed.should_stop(deferral)  # other ranks wait here until everything is saved


def _loader(config: RunConfig, images: Images) -> Loader:
    """Create the loader of random views for training."""
    device = choose_device(config)
    batches = EpochBatches(len(images), config.batch_size, config.seed, alone=config.views > 1)
    views = RandomViews(images, config.image_size, config.seed, config.views)
    workers = worker_count(config, device)
    return Loader(views, batches, workers, device.type == "cuda", config.worker_timeout)


def _help(  # noqa: PLR0913
    config: RunConfig,
    source: Source,
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    momentum: dict[str, Any],
    position: Position,
) -> None:
    """Run the training loop on the other ranks: the same steps, but without writing files."""
    device = choose_device(config)
    model = create_model(config, num_classes).to(device, memory_format=torch.channels_last)
    optimizer = create_optimizer(config, model)
    resume.load_optimizer_state(optimizer, momentum, config)
    if config.compile:
        model.compile()
    trained = distributed.data_parallel(model)
    loader = _loader(config, source.open())
    batches, batch = loader.batches, f"batch_size {config.batch_size}"
    with (
        translate_torch_errors(batch, config.worker_timeout),
        loader,
        deferred_signals() as deferral,
    ):
        while position.epoch <= config.epochs and not distributed.should_stop(deferral):
            batches.epoch, batches.start = position.epoch, position.step
            common = (trained, optimizer, loader, mean, std, 0.0)
            step, _ = train_epoch(config, *common, lambda _: distributed.should_stop(deferral))
            is_whole = step == len(batches)
            position = Position(position.epoch + 1) if is_whole else Position(position.epoch, step)
        distributed.should_stop(deferral)


def _train_epoch(run: RunDirectory, *common: Any) -> tuple[int, float]:
    """Call :func:`.engine.train_epoch`; if a value is not finite, list the images of the batch."""
    try:
        step, loss_sum = train_epoch(run.config, *common)
        return step, loss_sum.item()
    except NotFiniteError as error:
        write_json(run.bad_batch_file, error.files)
        raise InputError(
            f"{error} (full list in {relative_to_root(run.bad_batch_file)}); the last checkpoint "
            f"is intact; lower learning_rate ({run.config.learning_rate:g}) in another run, or "
            "check these images"
        ) from None


def _metrics_row(
    position: Position, num_images: int, optimizer: torch.optim.Optimizer, device: torch.device
) -> dict[str, Any]:
    """Return the row of ``metrics.csv`` for a finished epoch."""
    return {
        "epoch": position.epoch,
        "loss": position.loss_sum / num_images,
        "learning_rate": optimizer.param_groups[0]["lr"],
        "seconds": round(position.seconds, 3),
        "images_per_second": round(num_images / position.seconds, 1),
        "peak_memory_mib": peak_memory_mib(device),
    }
