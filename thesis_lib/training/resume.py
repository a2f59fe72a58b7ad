"""Going on where a training stopped: its newest sound checkpoint, held against what is asked."""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thesis_lib.config import IDENTITY, PRETRAIN, RunConfig
from thesis_lib.data.datasets import DataSet
from thesis_lib.errors import InputError
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.device import precision_name
from thesis_lib.system.files import atomic_path, read_json, write_json
from thesis_lib.system.paths import relative_to_root
from thesis_lib.training import checkpoints

PARTS = (
    *("config", "data_fingerprint", "classes", "mean", "std", "code", "precision", "metrics"),
    *("position", "model", "optimizer"),
)
NEEDED = ("config", "data_fingerprint", "classes", "mean", "std", "metrics", "position", "model")

PACKAGE = Path(__file__).parent.parent
# What decides the bits of a training.
CODE = (
    *("losses", "models", "system/distributed", "data/cache", "data/datasets", "data/loaders"),
    *("data/splits", "data/statistics", "data/transforms", "training/engine"),
    *("training/pretraining", "training/resume", "data/images"),
)
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow")
STARTS = 5  # lives without progress, after which a run stops


@dataclass
class Position:
    """How far a training has come: ``step`` steps of ``epoch`` are done.

    ``loss_sum`` is that of their images; ``seconds`` is what they took.
    """

    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0


def _code_version() -> dict[str, str]:
    """Hash of the modules that decide a training's bits, and versions of the libraries."""
    digest = hashlib.sha256()
    for name in CODE:
        digest.update((PACKAGE / f"{name}.py").read_bytes())
    versions = {name: metadata.version(name) for name in LIBRARIES}
    return {"thesis_lib": digest.hexdigest()[:16], **versions}


CODE_VERSION = _code_version()  # what runs: the files may be changed while it does


def checkpoint_content(
    config: RunConfig,
    dataset: DataSet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    rows: list[dict[str, Any]],
    position: Position,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """What a checkpoint holds: all that another process needs to go on with the same bits."""
    return {
        "config": config.to_dict(),
        "data_fingerprint": dataset.fingerprint,
        "classes": dataset.classes,
        "mean": list(mean),
        "std": list(std),
        "code": CODE_VERSION,
        "precision": precision_name(config),
        "metrics": rows,
        "position": vars(position),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }


def save_rolling(run: RunDirectory, checkpoint: dict[str, Any]) -> None:
    """Renew ``last.pth``; the one before stays as ``previous.pth``, should this one be damaged."""
    if run.last_checkpoint.is_file():
        with atomic_path(run.previous_checkpoint) as partial:
            try:
                os.link(run.last_checkpoint, partial)
            except OSError:  # a disk without hard links
                shutil.copyfile(run.last_checkpoint, partial)
    checkpoints.save(run.last_checkpoint, checkpoint)
    run.lives_file.unlink(missing_ok=True)


def restore(
    run: RunDirectory,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: DataSet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> tuple[list[dict[str, Any]], Position, dict[str, Any]]:
    """Load the newest sound checkpoint, if there is any, into model and optimizer.

    Damaged ones are told of and kept as ``<name>.<time>.damaged``.

    Returns:
        The metrics of the epochs that are done; where to go on; and for provenance what is
        damaged, and what differed where ``force`` went on nevertheless.

    Raises:
        InputError: where the checkpoint lacks a part, or its settings, data, code or precision
            are not what is asked now, naming the differences; where all are damaged.
    """
    path, checkpoint = _newest_sound(run)
    damaged = sorted(file.name for file in run.checkpoints.glob("*.damaged"))
    facts = {"damaged_checkpoints": damaged} if damaged else {}
    if checkpoint is None:
        return [], Position(), facts
    name = relative_to_root(path)
    missing = [part for part in PARTS if part not in checkpoint]
    needed = [part for part in NEEDED if part in missing]
    if needed:
        raise InputError(f"the checkpoint {name} lacks {', '.join(needed)}: it cannot be used")
    differing = [f"it lacks {part}" for part in missing]
    differing += _differences(checkpoint, run.config, dataset, mean, std)
    if "optimizer" in checkpoint and checkpoint["optimizer"] is None:
        raise InputError(
            f"{name} was imported without the optimizer's state: its training cannot go on"
        )
    if differing and not run.config.force:
        raise InputError(
            f"the checkpoint {name} is not of what is asked: {'; '.join(differing)}; put that "
            "right, start another run with --tag NAME, or go on all the same with --force"
        )
    if differing:
        facts["forced"] = differing
    weights = checkpoints.strip_wrapper_prefix(checkpoint["model"], name)
    checkpoints.load_weights(model, weights, name)
    if "optimizer" in checkpoint:
        load_optimizer_state(optimizer, checkpoint["optimizer"], run.config)
    position = Position(**checkpoint["position"])
    print(f"going on from {name}, epoch {position.epoch}", flush=True)
    return checkpoint["metrics"], position, facts


def _newest_sound(run: RunDirectory) -> tuple[Path | None, dict[str, Any] | None]:
    """The newest checkpoint that can be trusted, and its path; damaged ones are set aside.

    Raises:
        InputError: where there are checkpoints, but none that is sound.
    """
    kept = [checkpoints.checkpoint_path(run, e) for e in reversed(checkpoints.kept_epochs(run))]
    newest, damaged = (None, None), []
    for path in (run.last_checkpoint, run.previous_checkpoint, *kept):
        if not path.is_file():
            continue
        try:
            found = (path, checkpoints.load(path))
        except checkpoints.DamagedError as error:
            damaged.append(path)
            print(f"!! {error}", flush=True)
            continue
        if newest[1] is None or _place(found[1]) > _place(newest[1]):
            newest = found
        if path != run.previous_checkpoint:  # what follows is older
            break
    if damaged and newest[1] is None and not run.config.force:
        raise InputError(
            f"no checkpoint of {run.path.name} is sound; restore {relative_to_root(damaged[0])} "
            "from a copy, or begin anew with --force"
        )
    for path in damaged:
        os.replace(path, path.with_name(f"{path.name}.{time.time_ns()}.damaged"))
    return newest


def _place(checkpoint: dict[str, Any]) -> tuple[int, int]:
    position = checkpoint.get("position", {})
    return position.get("epoch", 0), position.get("step", 0)


def _differences(
    checkpoint: dict[str, Any],
    config: RunConfig,
    dataset: DataSet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Iterator[str]:
    """What a checkpoint has otherwise than this training would, in words."""
    stored = RunConfig.from_dict(checkpoint["config"])
    for name, (theirs, ours) in stored.differences(config, (IDENTITY, PRETRAIN)).items():
        yield f"{name} was {theirs!r}, now {ours!r}"
    if checkpoint["data_fingerprint"] != dataset.fingerprint:
        yield (
            f"the files of {relative_to_root(dataset.root)} were "
            f"{checkpoint['data_fingerprint']}, now {dataset.fingerprint}"
        )
    now = {"classes": dataset.classes, "mean": list(mean), "std": list(std)}
    for name, value in now.items():
        if checkpoint[name] != value:
            yield f"{name} was {checkpoint[name]}, now {value}"
    if checkpoint.get("precision") not in (None, precision_name(config)):
        yield f"precision was {checkpoint['precision']}, now {precision_name(config)}"
    for name, version in (checkpoint.get("code") or {}).items():  # None: another program's
        if version != CODE_VERSION.get(name):
            yield f"the code of {name} was {version}, now {CODE_VERSION.get(name)}"


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, state: dict[str, Any], config: RunConfig
) -> None:
    """Load SGD's state, in the weights' own memory layout, for its fused step."""
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, None
        group["momentum"], group["weight_decay"] = config.momentum, config.weight_decay
        for weight in group["params"]:
            momentum = optimizer.state.get(weight, {}).get("momentum_buffer")
            if momentum is not None:
                own = torch.empty_like(weight, requires_grad=False).copy_(momentum)
                optimizer.state[weight]["momentum_buffer"] = own


def optimizer_state_on_cpu(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """SGD's state, as another process can take it over."""
    state = optimizer.state_dict()
    of_weights = {
        number: {name: value.cpu() for name, value in values.items() if value is not None}
        for number, values in state["state"].items()
    }
    return state | {"state": of_weights}


def check_space(run: RunDirectory, model: nn.Module, done: int) -> None:
    """Hold what the checkpoints to come will take against the space there is.

    Raises:
        InputError: where they do not fit, with both figures.
    """
    weights = sum(value.nbytes for value in model.state_dict().values())
    size = weights + sum(value.nbytes for value in model.parameters())  # its momentum
    kept = sum(epoch > done for epoch in checkpoints.scheduled_epochs(run.config))
    there = sum(p.is_file() for p in (run.last_checkpoint, run.previous_checkpoint))
    needed = size * (kept + 3 - there)  # last, previous, and one that is being written
    run.path.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(run.path).free
    if needed > free and not run.config.force:
        raise InputError(
            f"{kept} checkpoints to come take {needed / 2**20:,.0f} MiB in "
            f"{relative_to_root(run.checkpoints)}, where {free / 2**20:,.0f} MiB are free; make "
            "room, keep fewer with --save-every N, or go on all the same with --force"
        )


@contextlib.contextmanager
def limit_restarts(run: RunDirectory, position: Position) -> Iterator[None]:
    """Count the starts at one place; a save after it ends the count, as an error with a name does.

    Raises:
        InputError: where the last STARTS lives all began here and were killed before a save.
    """
    place = [position.epoch, position.step, run.config.rolling_minutes]
    noted = read_json(run.lives_file) if run.lives_file.is_file() else {}
    starts = noted["starts"] if noted.get("place") == place else 0
    if starts >= STARTS and not run.config.force:
        raise InputError(
            f"no progress: {run.path.name} was started {starts} times at epoch {position.epoch} "
            "and killed each time before last.pth was saved; let it live longer, save more often "
            f"with --rolling-minutes (now {run.config.rolling_minutes:g}), or try again with "
            "--force"
        )
    write_json(run.lives_file, {"place": place, "starts": starts + 1})
    try:
        yield
    except Exception:  # it has told its cause; a signal that came before a save has not
        run.lives_file.unlink(missing_ok=True)
        raise
