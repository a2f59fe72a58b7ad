"""Reading what SupContrast (github.com/HobbitLong/SupContrast) writes: checkpoints and logs.

Such a file is a dict: ``opt`` (an argparse.Namespace), ``model`` (a state dict: ``encoder.*``
and ``head.*``, or ``fc.*`` of its cross-entropy baseline; with ``module.`` in front or after
``encoder`` when trained on several GPUs), ``optimizer`` and ``epoch``.
"""

import argparse
import ast
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thesis_lib.config import InputError

WRAPPERS = ("module", "_orig_mod")  # what DataParallel and torch.compile put into keys
OWNERS = {"encoder": "backbone", "head": "projection.layers", "fc": "head"}
# SupContrast's own ResNet is timm's with the small-image stem, but for one name.
PARTS = {"shortcut": "downsample"}
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
        shortcut = any(".shortcut." in key for key in self.theirs.values())
        return spelt.replace(".downsample.", ".shortcut.") if shortcut else spelt


def read_checkpoint(path: Path) -> SupContrastCheckpoint:
    """Read a file of SupContrast without running pickled code.

    Raises:
        InputError: for a file that is missing, damaged, holds anything but tensors, plain values
            and an argparse.Namespace, or is laid out otherwise.
    """
    content = _load(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content)
        raise InputError(
            f"{path} is no checkpoint of SupContrast: it holds {found}, where opt, model, "
            "optimizer and epoch belong"
        )
    theirs: dict[str, str] = {}
    for key in content["model"]:
        name = _our_name(key)
        if name in theirs:
            raise InputError(f"{path} holds the same weight twice: {theirs[name]} and {key}")
        theirs[name] = key
    options = vars(content["opt"]) if isinstance(content.get("opt"), argparse.Namespace) else {}
    try:
        settings = _settings(options)
    except (ValueError, SyntaxError, TypeError, KeyError) as error:
        raise InputError(f"{path}: its options cannot be understood: {error}") from None
    if any(key.startswith("head.") for key in theirs):
        settings["method"] = "cross-entropy"
    return SupContrastCheckpoint(
        path,
        _epoch(path, content),
        {name: content["model"][key] for name, key in theirs.items()},
        theirs,
        options,
        settings,
        content.get("optimizer"),
    )


def _load(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks for {named[1]}, which" if named else "holds something that"
        raise InputError(
            f"{path} {what} is not loaded: of a checkpoint's content only tensors, plain values "
            "and an argparse.Namespace are trusted"
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"the checkpoint {path} cannot be read: {reason}") from None


def _our_name(key: str) -> str:
    owner, *parts = (part for part in key.split(".") if part not in WRAPPERS)
    return ".".join((OWNERS.get(owner, owner), *(PARTS.get(part, part) for part in parts)))


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of RunConfig that SupContrast's options tell."""
    told = {ours: options[name] for name, ours in OPTIONS.items() if options.get(name) is not None}
    for name in ("mean", "std", "decay_epochs"):  # as typed on its command line
        if isinstance(told.get(name), str):
            told[name] = ast.literal_eval(
                f"({told[name]},)" if name == "decay_epochs" else told[name]
            )
    if "cosine" in options:
        told["schedule"] = "cosine" if options["cosine"] else "step"
    if "warm" in options:
        told["warmup_epochs"] = options.get("warm_epochs", 10) if options["warm"] else 0
    if options.get("warmup_from") is not None:
        told["warmup_from"] = options["warmup_from"]
    if "method" in options:
        told["method"] = {"SupCon": "supcon", "SimCLR": "simclr"}[options["method"]]
    return told


def _epoch(path: Path, content: Mapping[str, Any]) -> int:
    named = re.fullmatch(r"ckpt_epoch_(\d+)", path.stem)
    epoch = content.get("epoch", int(named[1]) if named else None)
    if not isinstance(epoch, int) or epoch < 1:
        raise InputError(f"{path} does not say of which epoch it is; name it ckpt_epoch_N.pth")
    return epoch


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
