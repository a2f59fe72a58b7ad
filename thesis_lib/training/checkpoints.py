"""Save and load checkpoints of pretraining.

A checkpoint contains everything that is needed to rebuild its model and to resume training.
"""

import errno
import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thesis_lib.backbones import create_backbone
from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.heads import Classifier, create_head
from thesis_lib.methods import REGIONS
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import atomic_path

MARK = b"\nsha256:"
TRAILER_BYTES = len(MARK) + 64
END_MARK, END_BYTES = b"PK\x05\x06", 22  # last record of a zip archive without a comment


class DamagedError(InputError):
    """Raised for a checkpoint that is damaged: its bytes are not those that were written."""


def checkpoint_path(run: RunDirectory, epoch: int) -> Path:
    """Return the path of an epoch's kept checkpoint, such as ``checkpoints/epoch_0050.pth``."""
    return run.checkpoints / f"epoch_{epoch:04d}.pth"


def scheduled_epochs(config: RunConfig) -> list[int]:
    """Return the epochs whose checkpoints a run keeps: every ``save_every``-th and the last."""
    regular = range(config.save_every, config.epochs + 1, config.save_every)
    return sorted({*regular, config.epochs})


def save(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values to a file, completely or not at all, with a checksum.

    ``torch.load`` can read the file, too: it ignores the checksum after the zip archive.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    body = buffer.getbuffer()
    trailer = _trailer(body)
    with atomic_path(path, len(body) + len(trailer)) as partial, open(partial, "wb") as file:
        file.write(body)
        file.write(trailer)


def load(path: Path) -> dict[str, Any]:
    """Read a file written by :func:`save`, onto the CPU and without running pickled code.

    Raises:
        InputError: if the file is missing or is not a checkpoint.
        DamagedError: if its checksum is wrong. ``torch.load`` alone would load flipped bits
            without an error.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise DamagedError(f"the checkpoint {path} cannot be read: {error.strerror}") from None
    body, trailer = content[:-TRAILER_BYTES], content[-TRAILER_BYTES:]
    if trailer[: len(MARK)] != MARK:
        body = content
    sound = trailer == _trailer(body) if body is not content else is_whole_zip(content)
    if not sound:
        raise DamagedError(f"the checkpoint {path} is damaged or incomplete")
    try:
        return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # intact, but not a checkpoint or from another torch version
        reason = f"{type(error).__name__} {error}".split("\n")[0]
        raise InputError(f"the checkpoint {path} cannot be read: {reason}") from None


def is_whole_zip(content: memoryview) -> bool:
    """Return whether a file written by ``torch.save`` alone passes its zip archive's checksums."""
    if content[-END_BYTES:][: len(END_MARK)] != END_MARK:
        return False
    try:
        return zipfile.ZipFile(io.BytesIO(content)).testzip() is None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
        return False


def _trailer(body: memoryview) -> bytes:
    return MARK + hashlib.sha256(body).hexdigest().encode()


def strip_wrapper_prefix(weights: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Remove the prefixes that DataParallel and torch.compile add to the names of weights.

    Args:
        weights: name -> tensor.
        where: the file that they were read from, for the error message.

    Returns:
        The weights under their names without ``module.`` and ``_orig_mod.``.

    Raises:
        InputError: if two weights have the same name without prefixes.
    """
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        own = re.sub(r"^((module|_orig_mod)\.)+", "", name)
        if own in found:
            raise InputError(f"{where} holds the same weight twice: {own} and {name}")
        found[own] = value
    return found


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Check weights by :func:`check_weights`, and load them into the module."""
    check_weights(module, weights, where)
    module.load_state_dict(weights)


def check_weights(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    where: str,
    spell: Callable[[str], str] = str,
) -> None:
    """Check that weights have exactly the keys and shapes of a module's.

    Args:
        module: the module that they are for.
        weights: key -> tensor.
        where: the file that they were read from, for the error message.
        spell: maps a key to its name in the file, for the error message.

    Raises:
        InputError: if keys or shapes differ. The message lists every key that is missing,
            unexpected or has another shape.
    """
    needed = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in weights.items()}
    reasons = {
        "missing": [spell(name) for name in needed if name not in there],
        "unexpected": [spell(name) for name in there if name not in needed],
        "of another shape": [
            f"{spell(name)} {there[name]} instead of {needed[name]}"
            for name in needed
            if name in there and there[name] != needed[name]
        ],
    }
    reasons = {reason: names for reason, names in reasons.items() if names}
    if reasons:
        counted = ", ".join(f"{len(names)} {reason}" for reason, names in reasons.items())
        listed = "; ".join(f"{reason}: {', '.join(names)}" for reason, names in reasons.items())
        raise InputError(f"the weights in {where} do not fit the model: {counted} ({listed})")


def create_run_backbone(config: RunConfig) -> nn.Module:
    """Create the backbone of a run with random weights; region properties pass unchanged.

    Raises:
        ValueError: see :func:`thesis_lib.backbones.create_backbone`.
    """
    if config.method == REGIONS:
        return nn.Identity()
    return create_backbone(
        config.backbone, config.small_images, config.image_size, config.zero_init_last
    )


def load_backbone(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a checkpoint's backbone, in evaluation mode.

    Returns:
        The backbone, and the checkpoint without its weights and its optimizer state.

    Raises:
        InputError: if the file is damaged, or its weights do not fit the backbone.
    """
    checkpoint = load(path)
    config = RunConfig.from_dict(checkpoint["config"])
    backbone = create_run_backbone(config)
    prefix = "backbone."
    weights = {
        key.removeprefix(prefix): value
        for key, value in strip_wrapper_prefix(checkpoint.pop("model"), str(path)).items()
        if key.startswith(prefix)
    }
    load_weights(backbone, weights, str(path))
    del checkpoint["optimizer"]
    return backbone.eval(), checkpoint


def load_classifier(run: RunDirectory) -> tuple[Classifier, dict[str, Any]]:
    """Load the chosen backbone with its head, in evaluation mode.

    Returns:
        The classifier and the content of ``head.pth``.
    """
    # A head of an earlier version lacks these two.
    earlier: dict[str, Any] = {"categories": {}, "crop_bottom": 0}
    head = earlier | load(run.head_file)
    backbone, _ = load_backbone(checkpoint_path(run, head["checkpoint"]))
    return Classifier(backbone, create_head(head["weights"])).eval(), head
