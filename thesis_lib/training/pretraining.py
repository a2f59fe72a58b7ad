"""Pretrain a backbone (stage 1) with SupCon, SimCLR or the cross-entropy baseline."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from thesis_lib.config import IDENTITY, PRETRAIN, RunConfig
from thesis_lib.data.cache import Images
from thesis_lib.data.datasets import DataSet, open_dataset
from thesis_lib.data.framing import Frame
from thesis_lib.data.loaders import EpochBatches, Loader, RandomViews, open_loader
from thesis_lib.errors import InputError
from thesis_lib.heads import Classifier, ContrastiveModel, linear_head
from thesis_lib.methods import NATURAL, UNTRAINED
from thesis_lib.runs.artifacts import check_data_name, check_trained_on
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.provenance import add_facts
from thesis_lib.runs.stages import is_done
from thesis_lib.system import distributed
from thesis_lib.system.device import (
    choose_device,
    peak_memory_mib,
    precision_name,
    total_memory_mib,
)
from thesis_lib.system.files import write_json
from thesis_lib.system.paths import find_data, relative_to_root
from thesis_lib.system.progress import EpochProgress
from thesis_lib.system.signals import deferred_signals
from thesis_lib.system.torch_errors import translate_torch_errors
from thesis_lib.training import checkpoints, resume
from thesis_lib.training.code_version import CODE_VERSION
from thesis_lib.training.engine import NotFiniteError, train_epoch
from thesis_lib.training.initial_weights import (
    InitialWeights,
    begun_from,
    random_words,
    read_initial_weights,
)
from thesis_lib.training.run_files import RunFiles
from thesis_lib.training.stage import Stage, run_stage
from thesis_lib.training.state import Position, TrainState


def create_model(config: RunConfig, num_classes: int) -> nn.Module:
    """Create the model to train, with initial weights drawn from the run's seed.

    It is a backbone with a projection head, with a linear head (cross-entropy) or alone (without
    training).

    Raises:
        InputError: if the backbone is unknown, or its stem or image size is not supported.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            backbone = checkpoints.create_run_backbone(config)
        except ValueError as error:
            raise InputError(str(error)) from None
        if config.method == "cross-entropy":
            return Classifier(backbone, linear_head(backbone.num_features, num_classes))
        if config.method in UNTRAINED:
            return nn.ModuleDict({"backbone": backbone})
        return ContrastiveModel(backbone, config.projection_dim)


def check_run(config: RunConfig) -> tuple[RunDirectory, DataSet, nn.Module]:
    """Check everything that can be checked before a run writes its first file.

    Returns:
        The run, its data set, and its model with initial weights.

    Raises:
        InputError: if the data, backbone, image size or batch size cannot be used, if the run
            exists already and has other settings, or if runs on other data have their results
            where those of this data set would go.
    """
    run = RunDirectory(config)
    if not config.force:
        run.check_config((IDENTITY, PRETRAIN))
    dataset = open_dataset(config.data, crop_bottom=config.crop_bottom)
    num_images = len(dataset.splits["train"])
    if config.batch_size > num_images and config.method not in UNTRAINED:
        raise InputError(
            f"batch_size {config.batch_size} is larger than the data set: {config.data}/train "
            f"has {num_images} images"
        )
    ranks = distributed.world_size() if distributed.world_size() > 1 else config.devices
    fewest = -(-2 // config.views) * ranks  # batch normalisation needs two views per rank
    if ranks > 1 and config.batch_size < fewest and config.method not in UNTRAINED:
        raise InputError(
            f"batch_size {config.batch_size} cannot be shared by {ranks} processes (it counts the "
            f"images of all of them); set it to {fewest} or more, or use fewer devices"
        )
    if not config.force:
        check_data_name(config.data, dataset.fingerprint)
        check_trained_on(run, config.data, dataset.fingerprint)
    choose_device(config)
    with translate_torch_errors(f"backbone {config.backbone}", config.worker_timeout):
        model = create_model(config, len(dataset.classes))
    if config.weights and begun_from(run) is None:
        read_initial_weights(config, model.backbone)  # raises if they do not fit
    return run, dataset, model


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
    run = RunDirectory(config)
    if distributed.from_rank_0(lambda: is_done(run, "pretrain")) and not config.force:
        run.check_config((IDENTITY, PRETRAIN))
        if find_data(config.data).is_dir():
            dataset = open_dataset(config.data, crop_bottom=config.crop_bottom)
            check_trained_on(run, config.data, dataset.fingerprint)
        return run
    run, _, model = check_run(config)
    run_stage("pretrain", run, lambda stage: _train(stage, model))
    return run


def _train(stage: Stage, model: nn.Module) -> None:
    """Restore the newest checkpoint, if there is one, and train to the last epoch."""
    run, config = stage.run, stage.run.config
    start = begun_from(run)
    if start is None and config.weights:
        start = read_initial_weights(config, model.backbone)
    mean = config.mean or (start and start.mean) or stage.mean
    std = config.std or (start and start.std) or stage.std
    state = TrainState.create(config, model, mean, std)
    facts = resume.restore(stage, state)
    if not state.is_restored:
        facts |= _load_initial_weights(stage, model, start)
    with resume.limit_restarts(run, state.position):
        images = stage.images("train")
        if distributed.rank() == 0:
            resume.check_space(run, model, state.position.epoch - 1)
            run.write_config()
            add_facts(run, **facts, **_facts(stage, images))
        if config.compile:
            model.compile()  # in place, which keeps the names of the weights
        state.share()
        _train_epochs(stage, state, images)


def _load_initial_weights(
    stage: Stage, model: nn.Module, start: InitialWeights | None
) -> dict[str, Any]:
    """Load what the run starts from, and return it for ``provenance.json``; {}: random weights."""
    config = stage.run.config
    if not config.weights:
        words, facts = random_words(config), {}
    else:
        if start is None or not start.backbone:  # a training that --force begins again
            start = read_initial_weights(config, model.backbone)
        words = start.load_into(model, stage.dataset.classes)
        facts = {"weights": start.facts}
    if words and distributed.rank() == 0:
        print(words, flush=True)
    return facts


def _facts(stage: Stage, images: Images) -> dict[str, Any]:
    """Return the facts about a training for ``provenance.json``."""
    config, device = stage.run.config, choose_device(stage.run.config)
    return {
        "data_fingerprint": stage.dataset.fingerprint,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "memory_mib": total_memory_mib(device),
        "precision": precision_name(config),
        "compile": config.compile,
        "cache": "none" if images.cache is None else "memory",
        "ranks": distributed.world_size(),
        "code": CODE_VERSION,
    }


def _train_epochs(stage: Stage, state: TrainState, images: Images) -> None:
    """Run the training loop; every rank runs the same, and rank 0 writes the files."""
    config, loader = stage.run.config, _loader(stage.run.config, images)
    progress = EpochProgress(config.epochs, state.position.epoch - 1, len(images))

    with RunFiles(stage, state) as files, progress, loader, deferred_signals() as deferral:

        def leave_after(num_images: int) -> bool:
            progress.step(num_images)
            return distributed.should_stop(deferral)

        if config.method in UNTRAINED:
            files.write_untrained()
        while state.position.epoch <= config.epochs and not distributed.should_stop(deferral):
            is_whole = _train_epoch(stage.run, state, loader, leave_after)
            files.write(is_whole)
            if is_whole:
                row = state.rows[-1]
                progress.epoch(row["epoch"], row["loss"], row["images_per_second"])
        files.save_last()
        distributed.should_stop(deferral)  # other ranks wait here until everything is saved


def _train_epoch(
    run: RunDirectory, state: TrainState, loader: Loader, leave_after: Callable[[int], bool]
) -> bool:
    """Train for the rest of an epoch; return whether its end was reached.

    Raises:
        InputError: if a value is not finite. The images of the batch are listed in a file.
    """
    position, began = state.position, time.perf_counter()
    loader.batches.epoch, loader.batches.start = position.epoch, position.step
    try:
        step, loss_sum = train_epoch(run.config, state, loader, leave_after)
    except NotFiniteError as error:
        if distributed.rank() == 0:
            write_json(run.bad_batch_file, error.files)
        raise InputError(
            f"{error} (full list in {relative_to_root(run.bad_batch_file)}); the last checkpoint "
            f"is intact; lower learning_rate ({run.config.learning_rate:g}) in another run, or "
            "check these images"
        ) from None
    seconds = position.seconds + time.perf_counter() - began
    state.position = Position(position.epoch, step, loss_sum.item(), seconds)
    if step < len(loader.batches):
        return False
    state.rows.append(_metrics_row(state, len(loader.dataset.images)))
    state.position = Position(position.epoch + 1)
    return True


def _loader(config: RunConfig, images: Images) -> Loader:
    """Create the loader of random views for training."""
    device = choose_device(config)
    shares = draw_shares(images.split.labels, config.sampling)
    batches = EpochBatches(len(images), config.batch_size, config.seed, config.views > 1, shares)
    views = RandomViews(images, Frame.of(config), config.seed, config.views)
    return open_loader(views, batches, config, device, config.batch_size * config.views)


def draw_shares(labels: np.ndarray, sampling: str) -> np.ndarray | None:
    """Return the share of the draws that each image (n,) gets; None for natural sampling.

    Args:
        labels: (n,) integer class labels.
        sampling: one of SAMPLINGS. Of the draws, a class gets a share in proportion to its number
            of images (natural), to the square root of it, or the same as all others (balanced).
            Source: Mahajan et al., Exploring the limits of weakly supervised pretraining (ECCV
            2018), for the square root.
    """
    if sampling == NATURAL:
        return None
    power = {"sqrt": 0.5, "balanced": 1.0}[sampling]
    shares = np.bincount(labels)[labels] ** -power
    return shares / shares.sum()


def _metrics_row(state: TrainState, num_images: int) -> dict[str, Any]:
    """Return the row of ``metrics.csv`` for a finished epoch."""
    position = state.position
    return {
        "epoch": position.epoch,
        "loss": position.loss_sum / num_images,
        "learning_rate": state.optimizer.param_groups[-1]["lr"],
        "seconds": round(position.seconds, 3),
        "images_per_second": round(num_images / position.seconds, 1),
        "peak_memory_mib": peak_memory_mib(next(state.model.parameters()).device),
    }
