"""Import SupContrast checkpoints as a run that all later stages can use."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from thesis_lib.backbones import create_backbone, has_resnet_stem
from thesis_lib.config import IDENTITY, PRETRAIN, RunConfig
from thesis_lib.data.statistics import data_statistics, readable
from thesis_lib.errors import InputError
from thesis_lib.runs.artifacts import METRICS_COLUMNS, trained_epochs
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.plateau import kept_epochs
from thesis_lib.runs.provenance import recorded
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import write_csv
from thesis_lib.system.locks import locked
from thesis_lib.system.paths import relative_to_root
from thesis_lib.system.progress import track
from thesis_lib.training import checkpoints
from thesis_lib.training.pretraining import check_run
from thesis_lib.training.resume import Position
from thesis_lib.training.stage import Stage
from thesis_lib.training.supcontrast import SupContrastCheckpoint, read_checkpoint, read_losses


def import_checkpoints(
    paths: Sequence[Path], settings: Mapping[str, Any], tensorboard: Path | None = None
) -> RunDirectory:
    """Import SupContrast checkpoints as a run that all later stages can use.

    A setting is taken from ``settings``, or else from the options in the files, or else from
    the defaults of RunConfig. Training can be resumed if the newest file contains the
    optimizer's state. Losses are only known if TensorBoard logs are given. All checkpoints
    appear at once at the end, so an interrupted import can simply be repeated.

    Args:
        paths: the checkpoints, one per epoch.
        settings: fields of RunConfig, including data and backbone.
        tensorboard: folder with SupContrast's TensorBoard logs of this training.

    Returns:
        The new run.

    Raises:
        InputError: if a file cannot be read or does not fit the backbone, the files belong to
            different trainings, the batch size differs from theirs, or the run exists already.
    """
    first = read_checkpoint(paths[0])
    config = _config(first, settings)
    run, dataset, model = check_run(config)
    if any(run.checkpoints.glob("*.pth")):
        raise InputError(
            f"{relative_to_root(run.path)} exists already; import under another --tag, or "
            "delete that run"
        )
    files = _check_files(paths, first, config, model)
    statistics = data_statistics(dataset)
    readable(dataset, statistics, config)
    losses = {} if tensorboard is None else read_losses(tensorboard)
    with locked(run.path):
        _import(Stage(run, dataset, statistics), model, first, files, losses)
    return run


def _import(
    stage: Stage,
    model: nn.Module,
    first: SupContrastCheckpoint,
    files: Mapping[int, Path],
    losses: Mapping[int, Mapping[str, float]],
) -> None:
    run, config, dataset = stage.run, stage.run.config, stage.dataset
    # Written to another folder first, so that an interrupted import leaves no checkpoints.
    partial = run.path / ".checkpoints.partial"
    shutil.rmtree(partial, ignore_errors=True)
    rows: list[dict[str, float]] = []
    for epoch, path in track(files.items(), len(files), "import", "checkpoint"):
        read = read_checkpoint(path)
        between = range(trained_epochs(rows) + 1, epoch)
        rows += [{"epoch": e, **losses[e]} for e in between if e in losses]
        rows.append({"epoch": epoch, **_learning_rate(read), **losses.get(epoch, {})})
        content = {
            "config": config.to_dict(),
            "data_fingerprint": dataset.fingerprint,
            "classes": dataset.classes,
            "mean": list(stage.mean),
            "std": list(stage.std),
            "code": None,  # unknown
            "precision": None,
            "metrics": _table(rows).to_dict("records"),
            "position": vars(Position(epoch + 1)),
            "model": read.weights,
            "optimizer": _optimizer_state(read, model, config),
        }
        checkpoints.save(partial / checkpoints.checkpoint_path(run, epoch).name, content)
    checkpoints.save(partial / run.last_checkpoint.name, content)
    facts = {
        "data_fingerprint": dataset.fingerprint,
        "imported": [
            {"epoch": epoch, "file": path.name, "sha256": _digest(path)}
            for epoch, path in files.items()
        ],
        "supcontrast_options": json.loads(json.dumps(first.options, default=str)),
    }
    with recorded(run, "pretrain", **facts) as end:
        end["state"] = "done" if epoch == config.epochs else "interrupted"
        write_csv(run.metrics_file, _table(rows))
        run.write_config()
        partial.rename(run.checkpoints)


def unknown_settings(first: SupContrastCheckpoint, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pretraining settings that neither files nor user give: name -> default."""
    ours = (
        *("tag", "seed", "data", "backbone", "small_images", "on_bad_image"),
        *("weights", "backbone_learning_rate", "frozen_epochs", "zero_init_last"),
    )
    known = {*first.settings, *settings, *ours}
    names = RunConfig.field_names(IDENTITY, PRETRAIN)
    return {name: getattr(RunConfig, name) for name in names if name not in known}


def describe_import(run: RunDirectory, files: Sequence[Path], settings: Mapping[str, Any]) -> str:
    """Describe an import: its epochs, the defaults used, and whether training can be resumed."""
    epochs, config = kept_epochs(run), run.config
    lines = [
        f"{run.path.name}: imported {len(epochs)} checkpoints, epochs {epochs[0]} to "
        f"{epochs[-1]} of {config.epochs}"
    ]
    unknown = unknown_settings(read_checkpoint(files[0]), settings)
    if unknown:
        listed = ", ".join(f"{name} = {value}" for name, value in unknown.items())
        lines.append(
            f"found in neither the files nor the options, so left at the default: {listed}"
        )
    if not is_done(run, "pretrain"):
        can = checkpoints.load(run.last_checkpoint)["optimizer"] is not None
        how = "can be resumed" if can else "cannot be resumed (no optimizer state in the file)"
        lines.append(
            f"its training {how} from epoch {epochs[-1]}; to probe the imported checkpoints now, "
            f"import them with --epochs {epochs[-1]} and another --tag"
        )
    return "\n".join(lines)


def _config(first: SupContrastCheckpoint, settings: Mapping[str, Any]) -> RunConfig:
    """Return the run's settings: those given, else those of the first file, else the defaults."""
    stored = first.settings
    batch_size = settings.get("batch_size", stored.get("batch_size", RunConfig.batch_size))
    if batch_size != stored.get("batch_size", batch_size):
        raise InputError(
            f"{first.path} was trained with batch size {stored['batch_size']}, not {batch_size}"
        )
    config = RunConfig.from_dict({**stored, **settings})
    try:
        is_resnet = has_resnet_stem(create_backbone(config.backbone))
    except ValueError as error:
        raise InputError(str(error)) from None
    if not is_resnet:
        return config
    # The weights show which stem was used; the image size alone would only suggest it.
    stem = first.weights.get("backbone.conv1.weight")
    is_small = stem is not None and stem.shape[-1] == 3
    found = {"small_images": is_small}
    if is_small:  # SupContrast's own ResNets, whose blocks do not start with zeros
        found["zero_init_last"] = False
    return config.updated(**{n: v for n, v in found.items() if getattr(config, n) is None})


def _check_files(
    paths: Sequence[Path], first: SupContrastCheckpoint, config: RunConfig, model: nn.Module
) -> dict[int, Path]:
    """Check every file against the model and the first file; return epoch -> path, ascending."""
    files: dict[int, Path] = {}
    for path in paths:
        read = read_checkpoint(path)
        checkpoints.check_weights(model, read.weights, str(path), read.spell)
        for name, value in first.settings.items():
            if read.settings.get(name) != value:
                raise InputError(
                    f"{path} and {first.path} are from different trainings: {name} is "
                    f"{read.settings.get(name)} and {value}"
                )
        if read.epoch > config.epochs:
            raise InputError(f"{path} is from epoch {read.epoch}, but epochs is {config.epochs}")
        if read.epoch in files:  # last.pth repeats the last ckpt_epoch_N.pth
            other = read_checkpoint(files[read.epoch]).weights
            if not all(torch.equal(value, other[name]) for name, value in read.weights.items()):
                raise InputError(
                    f"{path} and {files[read.epoch]} are both from epoch {read.epoch} but differ; "
                    "leave out one of them"
                )
        files.setdefault(read.epoch, path)
    return dict(sorted(files.items()))


def _optimizer_state(
    read: SupContrastCheckpoint, model: nn.Module, config: RunConfig
) -> dict[str, Any] | None:
    """Return SGD's state in the order of the model's parameters; None if the file has none."""
    parameters = dict(model.named_parameters())
    # An optimizer numbers its parameters in the order of the state dict.
    in_file = [name for name in read.weights if name in parameters]
    if read.optimizer is None:
        return None
    group, states = read.optimizer["param_groups"][0], read.optimizer["state"]
    momenta = {
        name: dict(states.get(index, {})).get("momentum_buffer")
        for name, index in zip(in_file, group["params"], strict=False)
    }
    fits = (
        value is not None and value.shape == parameters[name].shape
        for name, value in momenta.items()
    )
    if len(group["params"]) != len(in_file) or not all(fits):
        return None
    own = torch.optim.SGD(
        parameters.values(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    state = {i: {"momentum_buffer": momenta[name]} for i, name in enumerate(parameters)}
    return own.state_dict() | {"state": state}


def _learning_rate(read: SupContrastCheckpoint) -> dict[str, float]:
    """Return the learning rate stored in the optimizer at the end of the epoch."""
    rate = float(read.optimizer["param_groups"][0]["lr"]) if read.optimizer else float("nan")
    return {"learning_rate": rate}


def _table(rows: Sequence[Mapping[str, float]]) -> pd.DataFrame:
    """Return the content of ``metrics.csv``, with NaN for unknown values."""
    return pd.DataFrame(rows, columns=METRICS_COLUMNS)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
