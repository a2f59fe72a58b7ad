"""Read the checkpoints and logs of SupContrast (github.com/HobbitLong/SupContrast).

A SupContrast checkpoint is a dict with the keys ``opt`` (an argparse.Namespace), ``model`` (a
state dict), ``optimizer`` and ``epoch``. The state dict has the keys ``encoder.*`` and
``head.*``, or ``fc.*`` for the cross-entropy baseline. If it was trained on several GPUs, there
is also a ``module.`` at the beginning of the keys or after ``encoder``.
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
from thesis_lib.methods import NATURAL
from thesis_lib.training.checkpoints import is_whole_zip

NUMPY_CORES = ("core", "_core")
WRAPPERS = ("module", "_orig_mod")  # inserted into keys by DataParallel and torch.compile
OWNERS = {"encoder": "backbone", "head": "projection.layers", "fc": "head"}
# SupContrast's ResNet is timm's with the small-image stem, except for this name.
SHORTCUT = re.compile(r"^(backbone\.layer\d\.\d+)\.shortcut\.([01]\.)")
METHOD_NAMES = {"SupCon": "supcon", "SimCLR": "simclr"}
# Types that a file may contain besides tensors and plain values. SupContrast's step schedule
# saves learning rates as NumPy scalars, whose module was renamed in NumPy 2.
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
LOSS_TAGS = ("loss", "train_loss")  # of main_supcon.py and main_ce.py


@dataclass(frozen=True)
class SupContrastCheckpoint:
    """Hold the content of one SupContrast checkpoint, with weights renamed for this package.

    ``theirs`` maps the new names of the weights to those in the file. ``options`` are the
    options of SupContrast in the file, ``settings`` the same as fields of RunConfig.
    """

    path: Path
    epoch: int
    weights: dict[str, Tensor]
    theirs: dict[str, str]
    options: dict[str, Any]
    settings: dict[str, Any]
    optimizer: dict[str, Any] | None

    def spell(self, name: str) -> str:
        """Return the name that a weight has, or would have, in the file."""
        if name in self.theirs:
            return self.theirs[name]
        owner = next((theirs for theirs, ours in OWNERS.items() if name.startswith(ours)), "")
        spelt = owner + name.removeprefix(OWNERS.get(owner, ""))
        own = any(re.search(r"layer\d\.\d+\.shortcut\.", key) for key in self.theirs.values())
        return spelt.replace(".downsample.", ".shortcut.") if own else spelt


def read_checkpoint(path: Path) -> SupContrastCheckpoint:
    """Read a SupContrast checkpoint without running pickled code.

    Raises:
        InputError: if the file is missing or damaged, contains anything other than tensors,
            plain values and an argparse.Namespace, is not a SupContrast checkpoint, or has
            weights that are not finite.
    """
    content = load_trusted(path)
    try:
        return _interpret(path, content)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # options and weights may have any type
        reason = f"{type(error).__name__} {error}".split("\n")[0]
        raise InputError(f"{path} is not a SupContrast checkpoint: {reason}") from None


def _interpret(path: Path, content: Any) -> SupContrastCheckpoint:
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not all(isinstance(v, Tensor) for v in model.values()):
        found = [str(key) for key in content] if isinstance(content, dict) else [type(content)]
        more = ", ..." if len(found) > 5 else ""
        raise InputError(
            f"{path} is not a SupContrast checkpoint: it contains "
            f"{', '.join(map(str, found[:5]))}{more} instead of opt, model (a state dict), "
            "optimizer and epoch"
        )
    theirs: dict[str, str] = {}
    for key, value in model.items():
        name = _our_name(str(key))
        if name in theirs:
            raise InputError(f"{path} contains the same weight twice: {theirs[name]} and {key}")
        if not torch.isfinite(value).all():
            raise InputError(f"{path} contains weights that are not finite: {key}")
        theirs[name] = key
    options = content.get("opt") or {}
    options = options if isinstance(options, dict) else vars(options)
    options = {k: v.item() if isinstance(v, np.generic) else v for k, v in options.items()}
    try:
        settings = _settings(options)
        if any(name.startswith("head.") for name in theirs):
            # main_ce.py always trains on 32 px images and has no option for the size.
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


def load_trusted(path: Path) -> Any:
    """Load a file of ``torch.save`` without running pickled code.

    Raises:
        InputError: if it is missing or damaged, or contains anything other than tensors, plain
            values and an argparse.Namespace.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file" if path.exists() else f"there is no file {path}")
    if zipfile.is_zipfile(path) and not is_whole_zip(memoryview(path.read_bytes())):
        raise InputError(f"{path} is damaged: the checksums in its zip archive are wrong")
    try:
        with torch.serialization.safe_globals(TRUSTED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"contains {named[1]}, which" if named else "contains something that"
        raise InputError(
            f"{path} {what} is not loaded for safety: only tensors, plain values and an "
            "argparse.Namespace are"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # torch raises many types for files that are not checkpoints
        reason = f"{type(error).__name__} {error}".split("\n")[0]
        raise InputError(f"{path} cannot be read as a checkpoint: {reason}") from None


def _our_name(key: str) -> str:
    owner, *parts = (part for part in key.split(".") if part not in WRAPPERS)
    name = ".".join((OWNERS.get(owner, owner), *parts))
    return SHORTCUT.sub(r"\1.downsample.\2", name)


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert SupContrast's options to fields of RunConfig."""
    given = {ours: options[name] for name, ours in OPTIONS.items() if options.get(name) is not None}
    # SupContrast neither pads images nor cuts off rows, has torchvision's interpolation, and draws
    # every image once per epoch.
    settings: dict[str, Any] = {"fit": "crop", "crop_bottom": 0, "interpolation": "bilinear"}
    settings["sampling"] = NATURAL
    settings |= given
    for name, number in (("mean", float), ("std", float), ("decay_epochs", int)):
        text = settings.get(name)
        if isinstance(text, str):  # as typed on SupContrast's command line
            settings[name] = [number(t) for t in re.findall(r"[\d.]+(?:e-?\d+)?", text)]
    if "cosine" in options:
        settings["schedule"] = "cosine" if options["cosine"] else "step"
    if "warm" in options:
        settings["warmup_epochs"] = options.get("warm_epochs", 10) if options["warm"] else 0
    if options.get("warmup_from") is not None:
        settings["warmup_from"] = options["warmup_from"]
    if "method" in options:
        if options["method"] not in METHOD_NAMES:
            known = " or ".join(METHOD_NAMES)
            raise ValueError(f"method must be {known}, not {options['method']!r}")
        settings["method"] = METHOD_NAMES[options["method"]]
    return settings


def _epoch(path: Path, content: Mapping[str, Any]) -> int:
    """Return the epoch stored in the file, or else the one in its name."""
    stored: Any = content.get("epoch")
    named = re.fullmatch(r"ckpt_epoch_(\d+)", path.stem)
    try:
        epoch = int(stored)  # may be a tensor or a NumPy scalar
    except (TypeError, ValueError):
        epoch = int(named[1]) if named else 0
    if epoch < 1:
        raise InputError(
            f"{path} does not say which epoch it was saved in (its epoch is {stored!r}); rename it "
            "to ckpt_epoch_N.pth"
        )
    return epoch


def _optimizer(content: Any) -> dict[str, Any] | None:
    """Return an optimizer state dict with one parameter group; None for anything else."""
    if not isinstance(content, dict) or not isinstance(content.get("state"), dict):
        return None
    groups = content.get("param_groups")
    sound = isinstance(groups, list) and len(groups) == 1 and {"params", "lr"} <= set(groups[0])
    return content if sound else None


def read_losses(folder: Path) -> dict[int, dict[str, float]]:
    """Read the loss and learning rate of each epoch from SupContrast's TensorBoard logs.

    Raises:
        InputError: if the folder contains no logs with a loss.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        raise InputError(f"there is no folder {folder} to read TensorBoard logs from")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    loss = next((tag for tag in LOSS_TAGS if tag in tags), None)
    if loss is None:
        raise InputError(f"{folder} contains no TensorBoard logs with a loss (found: {tags})")
    rows: dict[int, dict[str, float]] = {e.step: {"loss": e.value} for e in events.Scalars(loss)}
    if "learning_rate" in tags:
        for event in events.Scalars("learning_rate"):
            rows.setdefault(event.step, {})["learning_rate"] = event.value
    return rows
