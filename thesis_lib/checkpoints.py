"""Checkpoints of pretraining: each can rebuild its own model and go on from where it was."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch

from thesis_lib.config import InputError, RunConfig
from thesis_lib.models import create_backbone
from thesis_lib.runs import RunDirectory, atomic_path


def checkpoint_path(run: RunDirectory, epoch: int) -> Path:
    """Where the kept checkpoint of an epoch lies: ``checkpoints/epoch_0050.pth``."""
    return run.checkpoints / f"epoch_{epoch:04d}.pth"


def kept_epochs(run: RunDirectory) -> list[int]:
    """Epochs of the checkpoints that are there, ascending."""
    matches = (re.fullmatch(r"epoch_(\d+)\.pth", p.name) for p in run.checkpoints.glob("*.pth"))
    return sorted(int(match[1]) for match in matches if match)


def scheduled_epochs(config: RunConfig) -> list[int]:
    """Epochs whose checkpoints a run keeps: every ``save_every``-th, and the last."""
    regular = range(config.save_every, config.epochs + 1, config.save_every)
    return sorted({*regular, config.epochs})


def save(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values whole or not at all."""
    with atomic_path(path) as partial:
        torch.save(content, partial)


def load(path: Path) -> dict[str, Any]:
    """Read what :func:`save` wrote, onto the CPU, without running pickled code.

    Raises:
        InputError: for a file that is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, KeyError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"the checkpoint {path} cannot be read: {reason}") from None


def load_backbone(path: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Rebuild the backbone of a checkpoint, in evaluation mode.

    Returns:
        The backbone, and the checkpoint without its weights and its optimizer's state.

    Raises:
        InputError: where the file is damaged, or keys of the weights miss or are left over.
    """
    checkpoint = load(path)
    config = RunConfig.from_dict(checkpoint["config"])
    backbone = create_backbone(config.backbone, config.small_images, config.image_size)
    prefix = "backbone."
    weights = {
        key.removeprefix(prefix): value
        for key, value in checkpoint.pop("model").items()
        if key.startswith(prefix)
    }
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the weights in {path} do not fit {config.backbone}: {reason}") from None
    del checkpoint["optimizer"]
    return backbone.eval(), checkpoint
