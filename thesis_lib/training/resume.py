"""Resume pretraining from the newest intact checkpoint, if its settings match the run's."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thesis_lib.config import IDENTITY, PRETRAIN, RunConfig
from thesis_lib.errors import InputError
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.plateau import kept_epochs
from thesis_lib.system import distributed
from thesis_lib.system.device import precision_name
from thesis_lib.system.files import atomic_path, read_json, write_json
from thesis_lib.system.paths import relative_to_root
from thesis_lib.training import checkpoints
from thesis_lib.training.code_version import CODE_VERSION
from thesis_lib.training.stage import Stage
from thesis_lib.training.state import Position, TrainState

PARTS = (
    *("config", "data_fingerprint", "classes", "mean", "std", "code", "precision", "metrics"),
    *("position", "model", "optimizer"),
)
NEEDED = ("config", "data_fingerprint", "classes", "mean", "std", "metrics", "position", "model")

STARTS = 5  # restarts without a save, after which a run stops


def checkpoint_content(stage: Stage, state: TrainState) -> dict[str, Any]:
    """Return the content of a checkpoint: all that is needed to resume with identical results."""
    config, dataset = stage.run.config, stage.dataset
    return {
        "config": config.to_dict(),
        "data_fingerprint": dataset.fingerprint,
        "classes": dataset.classes,
        "mean": list(state.mean),
        "std": list(state.std),
        "code": CODE_VERSION,
        "precision": precision_name(config),
        "metrics": state.rows,
        "position": vars(state.position),
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
    }


def save_rolling(run: RunDirectory, checkpoint: dict[str, Any]) -> None:
    """Save ``last.pth``, and keep the one before as ``previous.pth`` in case it gets damaged."""
    if run.last_checkpoint.is_file():
        with atomic_path(run.previous_checkpoint) as partial:
            try:
                os.link(run.last_checkpoint, partial)
            except OSError:  # the file system has no hard links
                shutil.copyfile(run.last_checkpoint, partial)
    checkpoints.save(run.last_checkpoint, checkpoint)
    run.restarts_file.unlink(missing_ok=True)


def restore(stage: Stage, state: TrainState) -> dict[str, Any]:
    """Load the newest intact checkpoint, if there is one, into the state.

    Damaged checkpoints are reported and renamed to ``<name>.<time>.damaged``.

    Returns:
        Facts for ``provenance.json``: the damaged checkpoints, and any differences overridden by
        ``force``.

    Raises:
        InputError: if the checkpoint is incomplete; if its settings, data, code or precision
            differ from the run's (the message lists the differences); or if all checkpoints are
            damaged.
    """
    run = stage.run
    path = distributed.from_rank_0(lambda: _newest_sound(run))
    damaged = sorted(file.name for file in run.checkpoints.glob("*.damaged"))
    facts: dict[str, Any] = {"damaged_checkpoints": damaged} if damaged else {}
    if path is None:
        return facts
    checkpoint = checkpoints.load(path)
    name = relative_to_root(path)
    missing = [part for part in PARTS if part not in checkpoint]
    needed = [part for part in NEEDED if part in missing]
    if needed:
        raise InputError(f"the checkpoint {name} lacks {', '.join(needed)}: it cannot be used")
    differing = [f"it lacks {part}" for part in missing]
    differing += _differences(checkpoint, stage, state)
    if "optimizer" in checkpoint and checkpoint["optimizer"] is None:
        raise InputError(
            f"{name} was imported without the optimizer's state: its training cannot be resumed"
        )
    if differing and not run.config.force:
        raise InputError(
            f"the checkpoint {name} does not match this run: {'; '.join(differing)}; undo the "
            "change, start another run with --tag NAME, or resume anyway with --force"
        )
    if differing:
        facts["forced"] = differing
    weights = checkpoints.strip_wrapper_prefix(checkpoint["model"], name)
    checkpoints.load_weights(state.model, weights, name)
    if "optimizer" in checkpoint:
        _load_optimizer(state.optimizer, checkpoint["optimizer"], run.config)
    state.rows, state.position = checkpoint["metrics"], Position(**checkpoint["position"])
    state.is_restored = True
    print(f"resuming from {name}, epoch {state.position.epoch}", flush=True)
    return facts


def _newest_sound(run: RunDirectory) -> Path | None:
    """Find the newest intact checkpoint, and rename damaged ones.

    Returns:
        Its path; None if there is no checkpoint.

    Raises:
        InputError: if there are checkpoints, but all are damaged.
    """
    kept = [checkpoints.checkpoint_path(run, e) for e in reversed(kept_epochs(run))]
    newest, reached, damaged = None, (0, 0), []
    for path in (run.last_checkpoint, run.previous_checkpoint, *kept):
        if not path.is_file():
            continue
        try:
            place = _place(checkpoints.load(path))
        except checkpoints.DamagedError as error:
            damaged.append(path)
            print(f"!! {error}", flush=True)
            continue
        if newest is None or place > reached:
            newest, reached = path, place
        if path != run.previous_checkpoint:  # what follows is hardly ever newer
            break
    if damaged and newest is None and not run.config.force:
        raise InputError(
            f"all checkpoints of {run.path.name} are damaged; restore "
            f"{relative_to_root(damaged[0])} from a copy, or start again with --force"
        )
    for path in damaged:
        os.replace(path, path.with_name(f"{path.name}.{time.time_ns()}.damaged"))
    return newest


def _place(checkpoint: dict[str, Any]) -> tuple[int, int]:
    position = checkpoint.get("position", {})
    return position.get("epoch", 0), position.get("step", 0)


def _differences(checkpoint: dict[str, Any], stage: Stage, state: TrainState) -> Iterator[str]:
    """Yield a description of each difference between a checkpoint and this run."""
    config, dataset = stage.run.config, stage.dataset
    stored = RunConfig.from_dict(checkpoint["config"])
    for name, (theirs, ours) in stored.differences(config, (IDENTITY, PRETRAIN)).items():
        yield f"{name} was {theirs!r}, now {ours!r}"
    if checkpoint["data_fingerprint"] != dataset.fingerprint:
        yield (
            f"the files of {relative_to_root(dataset.root)} were "
            f"{checkpoint['data_fingerprint']}, now {dataset.fingerprint}"
        )
    now = {"classes": dataset.classes, "mean": list(state.mean), "std": list(state.std)}
    for name, value in now.items():
        if checkpoint[name] != value:
            yield f"{name} was {checkpoint[name]}, now {value}"
    if checkpoint.get("precision") not in (None, precision_name(config)):
        yield f"precision was {checkpoint['precision']}, now {precision_name(config)}"
    if _place(checkpoint)[0] > config.epochs:  # nothing is left to train
        return
    for name, version in (checkpoint.get("code") or {}).items():  # None: imported
        if version != CODE_VERSION.get(name):
            yield f"the code of {name} was {version}, now {CODE_VERSION.get(name)}"


def _load_optimizer(
    optimizer: torch.optim.Optimizer, state: dict[str, Any], config: RunConfig
) -> None:
    """Load SGD's state in the memory layout of the weights, as its fused step needs it."""
    # A run that --force gives other settings may group the same weights in another way.
    optimizer.load_state_dict(state | {"param_groups": optimizer.state_dict()["param_groups"]})
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, None
        group["momentum"], group["weight_decay"] = config.momentum, config.weight_decay
        for weight in group["params"]:
            momentum = optimizer.state.get(weight, {}).get("momentum_buffer")
            if momentum is not None:
                own = torch.empty_like(weight, requires_grad=False).copy_(momentum)
                optimizer.state[weight]["momentum_buffer"] = own


def check_space(run: RunDirectory, model: nn.Module, done: int) -> None:
    """Check that the disk has enough free space for the remaining checkpoints.

    Raises:
        InputError: if it has not. The message gives the space needed and the free space.
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
            f"the {kept} remaining checkpoints need {needed / 2**20:,.0f} MiB in "
            f"{relative_to_root(run.checkpoints)}, but only {free / 2**20:,.0f} MiB are free; free "
            "some space, keep fewer with --save-every N, or continue anyway with --force"
        )


@contextlib.contextmanager
def limit_restarts(run: RunDirectory, position: Position) -> Iterator[None]:
    """Stop a run that is killed again and again before it can save.

    Restarts from the same position are counted. A save resets the count, and so does an error,
    since its message names the cause.

    Raises:
        InputError: if the last STARTS starts were all from this position.
    """
    if distributed.rank():
        yield
        return
    place = [position.epoch, position.step, run.config.rolling_minutes]
    noted = read_json(run.restarts_file) if run.restarts_file.is_file() else {}
    starts = noted["starts"] if noted.get("place") == place else 0
    if starts >= STARTS and not run.config.force:
        raise InputError(
            f"no progress: {run.path.name} was started {starts} times at epoch {position.epoch} "
            "and killed each time before last.pth was saved; let it run longer, save more often "
            f"with --rolling-minutes (now {run.config.rolling_minutes:g}), or try again with "
            "--force"
        )
    write_json(run.restarts_file, {"place": place, "starts": starts + 1})
    try:
        yield
    except Exception:  # not a signal: the error names the cause
        run.restarts_file.unlink(missing_ok=True)
        raise
