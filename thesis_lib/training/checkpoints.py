"""Checkpoints of pretraining: each can rebuild its own model and go on from where it was."""

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

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.models import Classifier, create_backbone, linear_head
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import atomic_path

MARK = b"\nsha256:"
TRAILER_BYTES = len(MARK) + 64
END_MARK, END_BYTES = b"PK\x05\x06", 22  # a zip archive's last record, without a comment


class DamagedError(InputError):
    """A checkpoint whose bytes are not those that were written."""


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
    """Write tensors and plain values whole or not at all, with a checksum behind them.

    ``torch.load`` reads such a file too: it does not mind what stands behind the zip archive.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    body = buffer.getbuffer()
    trailer = _trailer(body)
    with atomic_path(path, len(body) + len(trailer)) as partial, open(partial, "wb") as file:
        file.write(body)
        file.write(trailer)


def load(path: Path) -> dict[str, Any]:
    """Read what :func:`save` wrote, onto the CPU, without running pickled code.

    Raises:
        InputError: for a file that is missing, and :class:`DamagedError` where its checksum is
            wrong: torch itself loads flipped bits without a word.
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
        raise DamagedError(f"the checkpoint {path} is damaged or cut short")
    try:
        return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # its bytes are sound: it is no checkpoint, or of another torch
        reason = f"{type(error).__name__} {error}".split("\n")[0]
        raise InputError(f"the checkpoint {path} cannot be read: {reason}") from None


def is_whole_zip(content: memoryview) -> bool:
    """Whether a file that ``torch.save`` alone has written is as it was: by zip's checksums."""
    if content[-END_BYTES:][: len(END_MARK)] != END_MARK:
        return False
    try:
        return zipfile.ZipFile(io.BytesIO(content)).testzip() is None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
        return False


def _trailer(body: memoryview) -> bytes:
    return MARK + hashlib.sha256(body).hexdigest().encode()


def strip_wrapper_prefix(weights: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Weights without what DataParallel and torch.compile put before their names.

    Raises:
        InputError: where two of them come to the same name.
    """
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        own = re.sub(r"^((module|_orig_mod)\.)+", "", name)
        if own in found:
            raise InputError(f"{where} holds the same weight twice: {own} and {name}")
        found[own] = value
    return found


def load_weights(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    where: str,
    spell: Callable[[str], str] = str,
) -> None:
    """Load weights into a module whose keys and shapes they match exactly.

    Args:
        module: what they are for.
        weights: key -> tensor.
        where: the file that they come from, for the error.
        spell: how the file names a key, for the error.

    Raises:
        InputError: naming every key that is missing, left over or of another shape.
    """
    needed = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in weights.items()}
    reasons = {
        "missing": [spell(name) for name in needed if name not in there],
        "left over": [spell(name) for name in there if name not in needed],
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
        raise InputError(f"the weights in {where} do not fit: {counted} ({listed})")
    module.load_state_dict(weights)


def load_backbone(path: Path) -> tuple[nn.Module, dict[str, Any]]:
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
        for key, value in strip_wrapper_prefix(checkpoint.pop("model"), str(path)).items()
        if key.startswith(prefix)
    }
    load_weights(backbone, weights, str(path))
    del checkpoint["optimizer"]
    return backbone.eval(), checkpoint


def load_classifier(run: RunDirectory) -> tuple[Classifier, dict[str, Any]]:
    """The chosen backbone with its head, in evaluation mode, and the content of ``head.pth``."""
    head = load(run.head_file)
    backbone, _ = load_backbone(checkpoint_path(run, head["checkpoint"]))
    classifier = Classifier(backbone, linear_head(backbone.num_features, len(head["classes"])))
    classifier.head.load_state_dict(head["weights"])
    return classifier.eval(), head
