"""Reading what SupContrast (github.com/HobbitLong/SupContrast) writes: checkpoints and logs.

Such a file is a dict: ``opt`` (an argparse.Namespace), ``model`` (a state dict: ``encoder.*``
and ``head.*``, or ``fc.*`` of its cross-entropy baseline; with ``module.`` in front or after
``encoder`` when trained on several GPUs), ``optimizer`` and ``epoch``.
"""

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.training.checkpoints import is_whole_zip

NUMPY_CORES = ("core", "_core")
WRAPPERS = ("module", "_orig_mod")  # what DataParallel and torch.compile put into keys
OWNERS = {"encoder": "backbone", "head": "projection.layers", "fc": "head"}
# SupContrast's own ResNet is timm's with the small-image stem, but for one name.
SHORTCUT = re.compile(r"^(backbone\.layer\d\.\d+)\.shortcut\.([01]\.)")
METHOD_NAMES = {"SupCon": "supcon", "SimCLR": "simclr"}
# What a file may ask for beside tensors and plain values. Its step schedule leaves learning
# rates as scalars of numpy, which have moved from one of its modules to another.
TRUSTED = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(name)) for name in ("bool", "int32", "int64", "float32", "float64")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in NUMPY_CORES),
]
OPTIONS = {
    "batch_size": "batch_size",
    "epochs": "epochs",
    "learning_rate": "learning_rate",
    "lr_decay_rate": "decay_rate",
    "lr_decay_epochs": "decay_epochs",
    "momentum": "momentum",
    "weight_decay": "weight_decay",
    "temp": "temperature",
    "size": "image_size",
    "save_freq": "save_every",
    "mean": "mean",
    "std": "std",
}
LOSS_TAGS = ("loss", "train_loss")  # of main_supcon and of main_ce


@dataclass(frozen=True)
class SupContrastCheckpoint:
    """One file: its weights under this package's names, and what it says of its training.

    ``theirs`` maps those names to the file's; ``settings`` are fields of RunConfig.
    """

    path: Path
    epoch: int
    weights: dict[str, Tensor]
    theirs: dict[str, str]
    options: dict[str, Any]
    settings: dict[str, Any]
    optimizer: dict[str, Any] | None

    def spell(self, name: str) -> str:
        """How the file names a weight, or would."""
        if name in self.theirs:
            return self.theirs[name]
        owner = next((theirs for theirs, ours in OWNERS.items() if name.startswith(ours)), "")
        spelt = owner + name.removeprefix(OWNERS.get(owner, ""))
        own = any(re.search(r"layer\d\.\d+\.shortcut\.", key) for key in self.theirs.values())
        return spelt.replace(".downsample.", ".shortcut.") if own else spelt


def read_checkpoint(path: Path) -> SupContrastCheckpoint:
    """Read a file of SupContrast without running pickled code.

    Raises:
        InputError: for a file that is missing, damaged, holds anything but tensors, plain values
            and an argparse.Namespace, is laid out otherwise, or has weights that are not finite.
    """
    content = _load(path)
    try:
        return _interpret(path, content)
    except InputError:
        raise
    except Exception as error:  # anything may stand where an option or a weight belongs
        reason = f"{type(error).__name__} {error}".split("\n")[0]
        raise InputError(f"{path} is laid out as no checkpoint of SupContrast: {reason}") from None


def _interpret(path: Path, content: Any) -> SupContrastCheckpoint:
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not all(isinstance(v, Tensor) for v in model.values()):
        found = [str(key) for key in content] if isinstance(content, dict) else [type(content)]
        more = ", ..." if len(found) > 5 else ""
        raise InputError(
            f"{path} is no checkpoint of SupContrast: it holds "
            f"{', '.join(map(str, found[:5]))}{more}, where opt, model (a state dict), optimizer "
            "and epoch belong"
        )
    theirs: dict[str, str] = {}
    for key, value in model.items():
        name = _our_name(str(key))
        if name in theirs:
            raise InputError(f"{path} holds the same weight twice: {theirs[name]} and {key}")
        if not torch.isfinite(value).all():
            raise InputError(f"{path} holds weights that are not finite: {key}")
        theirs[name] = key
    options = content.get("opt") or {}
    options = options if isinstance(options, dict) else vars(options)
    options = {k: v.item() if isinstance(v, np.generic) else v for k, v in options.items()}
    try:
        settings = _settings(options)
        if any(name.startswith("head.") for name in theirs):
            # main_ce.py knows one size alone, and has no option for it.
            settings = {"image_size": 32, **settings, "method": "cross-entropy"}
        RunConfig.from_dict(settings)
    except ValueError as error:
        raise InputError(f"{path}: its options cannot be used: {error}") from None
    return SupContrastCheckpoint(
        path,
        _epoch(path, content),
        {name: model[key] for name, key in theirs.items()},
        theirs,
        options,
        settings,
        _optimizer(content.get("optimizer")),
    )


def _load(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"there is no file {path}" if not path.exists() else f"{path} is no file")
    if zipfile.is_zipfile(path) and not is_whole_zip(memoryview(path.read_bytes())):
        raise InputError(f"{path} is damaged: zip's checksums of what lies in it are wrong")
    try:
        with torch.serialization.safe_globals(TRUSTED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks for {named[1]}, which" if named else "holds something that"
        raise InputError(
            f"{path} {what} is not loaded: of a checkpoint's content only tensors, plain values "
            "and an argparse.Namespace are trusted"
        ) from None
    except Exception as error:  # torch raises many kinds on what is no checkpoint
        reason = f"{type(error).__name__} {error}".split("\n")[0]
        raise InputError(f"{path} cannot be read as a checkpoint: {reason}") from None


def _our_name(key: str) -> str:
    owner, *parts = (part for part in key.split(".") if part not in WRAPPERS)
    name = ".".join((OWNERS.get(owner, owner), *parts))
    return SHORTCUT.sub(r"\1.downsample.\2", name)


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of RunConfig that SupContrast's options tell."""
    told = {ours: options[name] for name, ours in OPTIONS.items() if options.get(name) is not None}
    for name, number in (("mean", float), ("std", float), ("decay_epochs", int)):
        if isinstance(told.get(name), str):  # as typed on its command line
            told[name] = [number(text) for text in re.findall(r"[\d.]+(?:e-?\d+)?", told[name])]
    if "cosine" in options:
        told["schedule"] = "cosine" if options["cosine"] else "step"
    if "warm" in options:
        told["warmup_epochs"] = options.get("warm_epochs", 10) if options["warm"] else 0
    if options.get("warmup_from") is not None:
        told["warmup_from"] = options["warmup_from"]
    if "method" in options:
        if options["method"] not in METHOD_NAMES:
            known = " and ".join(METHOD_NAMES)
            raise ValueError(f"method is {options['method']!r}, known are {known}")
        told["method"] = METHOD_NAMES[options["method"]]
    return told


def _epoch(path: Path, content: Mapping[str, Any]) -> int:
    """The epoch that the file tells, or its name."""
    told, named = content.get("epoch"), re.fullmatch(r"ckpt_epoch_(\d+)", path.stem)
    try:
        epoch = int(told)  # also of a tensor or a scalar of numpy
    except (TypeError, ValueError):
        epoch = int(named[1]) if named else 0
    if epoch < 1:
        raise InputError(
            f"{path} does not say of which epoch it is (its epoch is {told!r}); "
            "name it ckpt_epoch_N.pth"
        )
    return epoch


def _optimizer(content: Any) -> dict[str, Any] | None:
    """An optimizer's state dict with one group of parameters; None for anything else."""
    groups = content.get("param_groups") if isinstance(content, dict) else None
    sound = isinstance(groups, list) and len(groups) == 1 and isinstance(content.get("state"), dict)
    return content if sound and {"params", "lr"} <= set(groups[0]) else None


def read_losses(folder: Path) -> dict[int, dict[str, float]]:
    """Loss and learning rate of each epoch from SupContrast's TensorBoard logs.

    Raises:
        InputError: where the folder holds no logs with a loss.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        raise InputError(f"there is no folder {folder} with TensorBoard logs")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    loss = next((tag for tag in LOSS_TAGS if tag in tags), None)
    if loss is None:
        raise InputError(f"{folder} holds no TensorBoard logs with a loss (found: {tags})")
    rows: dict[int, dict[str, float]] = {e.step: {"loss": e.value} for e in events.Scalars(loss)}
    if "learning_rate" in tags:
        for event in events.Scalars("learning_rate"):
            rows.setdefault(event.step, {})["learning_rate"] = event.value
    return rows
