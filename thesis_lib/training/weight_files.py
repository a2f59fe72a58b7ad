"""Read weights that other programs have saved, and find a backbone among them.

Programs save a backbone in different ways: as a state dict alone (timm, torchvision), in a
dictionary (``state_dict``, ``model``, ``teacher``), under prefixes (``module.encoder_q.``,
``backbone.``), beside a classifier, a projection head or an optimizer. So the weights are not
looked for under known names: of all prefixes, the one is taken under which most of the backbone's
weights are found. If a program has other names for the same layers, the weights are matched by
their order, provided that their shapes and the last parts of their names agree.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thesis_lib.errors import InputError
from thesis_lib.training.checkpoints import MARK, TRAILER_BYTES, check_weights, load
from thesis_lib.training.supcontrast import load_trusted

COUNTER = "num_batches_tracked"  # of batch normalisation; old files lack it, and nothing uses it
CLASSIFIERS = ("fc", "classifier", "head", "heads")  # what a backbone's classifier may be called
DEEPEST = 5  # parts of a prefix, such as state_dict.module.encoder_q.


def read_weight_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read all tensors of a file, without running pickled code.

    Args:
        path: a file of safetensors, or one that ``torch.save`` has written.

    Returns:
        Name -> tensor, where the names of dictionaries are joined by dots; and the file's other
        content.

    Raises:
        InputError: if the file is missing, damaged, or no file of weights.
    """
    if not path.is_file():
        raise InputError(f"weights: there is no file {path}")
    with open(path, "rb") as file:
        start = file.read(256).lstrip().lower()
    if not start:
        raise InputError(f"weights: the file {path} is empty; download it again")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(f"weights: {path} is a web page, not weights; download the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"weights: {path} is only a pointer of Git LFS; run `git lfs pull` there")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path), {}
        except (SafetensorError, OSError) as error:
            raise InputError(f"weights: {path} cannot be read: {error}") from None
    content = load(path) if _is_ours(path) else load_trusted(path)
    tensors = dict(_flattened(content, ""))
    if not tensors:
        raise InputError(f"weights: {path} contains no tensors")
    return tensors, content if isinstance(content, dict) else {}


def _is_ours(path: Path) -> bool:
    """Return whether a file ends with the checksum of this package's checkpoints."""
    with open(path, "rb") as file:
        file.seek(-min(TRAILER_BYTES, path.stat().st_size), 2)
        return file.read(len(MARK)) == MARK


def _flattened(content: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield prefix.removesuffix("."), content
    elif isinstance(content, Mapping):
        for name, value in content.items():
            yield from _flattened(value, f"{prefix}{name}.")


def fit_weights(
    backbone: nn.Module, tensors: Mapping[str, Tensor], where: str
) -> tuple[dict[str, Tensor], str]:
    """Find the weights of a backbone among the tensors of a file.

    Args:
        backbone: a backbone without a classifier; its own weights do not change.
        tensors: see :func:`read_weight_file`.
        where: the file, for messages.

    Returns:
        The weights under the backbone's names, and what was found and left out, in words.

    Raises:
        InputError: if weights are missing, unexpected, have another shape or are not finite. The
            message lists them.
    """
    own = backbone.state_dict()
    needed = {n: tuple(value.shape) for n, value in own.items() if not n.endswith(COUNTER)}
    matches = _matches_of_prefixes(needed, tensors)
    # Of a student and its teacher (DINO), the teacher; of equals, the first in the file.
    best = max(matches, key=lambda prefix: (matches[prefix], "teacher" in prefix))
    for prefix in [best] if matches[best] else matches:
        inside = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        classifier = [n for n in inside if n not in own and _is_classifier(n, backbone)]
        found = {name: value for name, value in inside.items() if name not in classifier}
        words = f" under {prefix!r}" if prefix else ""
        by_order = None if matches[prefix] == len(needed) else _matched_by_order(needed, found)
        if by_order is not None:
            found, words = by_order, f"{words}, matched by their order, because their names differ"
            break
    if not matches[best] and by_order is None:
        first = ", ".join(list(tensors)[:3])
        raise InputError(
            f"none of the {len(tensors)} tensors in {where} ({first}, ...) is a weight of this "
            "backbone; give weights of the same architecture"
        )
    counters = {name: value for name, value in own.items() if name.endswith(COUNTER)}
    weights = counters | found
    check_weights(backbone, weights, where)
    if bad := [name for name, value in found.items() if not torch.isfinite(value).all()]:
        raise InputError(f"the weights in {where} are not finite: {', '.join(bad)}")
    outside = len(tensors) - len(inside)
    left_out = f"; left out: the classifier ({', '.join(classifier)})" if classifier else ""
    left_out += f"; left out: {outside} other tensors" if outside else ""
    return weights, f"{len(needed)} tensors{words}{left_out}"


def _matches_of_prefixes(
    needed: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]
) -> dict[str, int]:
    """Return, for each prefix in the file, how many weights it has by name and shape."""
    prefixes = [""]
    for name in tensors:
        parts = name.split(".")
        deepest = min(DEEPEST, len(parts) - 1)
        prefixes += [".".join(parts[:depth]) + "." for depth in range(1, deepest + 1)]
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    return {
        prefix: sum(shapes.get(prefix + name) == shape for name, shape in needed.items())
        for prefix in dict.fromkeys(prefixes)
    }


def _matched_by_order(
    needed: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """Return each needed name with the tensor at its place; None unless all of them agree.

    They agree if they have the same shape and the same last part of their name, such as "bias".
    """
    there = {name: value for name, value in found.items() if not name.endswith(COUNTER)}
    theirs = [(name.split(".")[-1], tuple(value.shape)) for name, value in there.items()]
    if theirs != [(name.split(".")[-1], shape) for name, shape in needed.items()]:
        return None
    return dict(zip(needed, there.values(), strict=True))


def _is_classifier(name: str, backbone: nn.Module) -> bool:
    """Return whether a weight belongs to a classifier, which backbones do not have."""
    own = getattr(backbone, "pretrained_cfg", None) or {}
    named = own.get("classifier") or ()
    names = (*CLASSIFIERS, *((named,) if isinstance(named, str) else named))
    return any(name.lstrip("_").startswith(f"{classifier}.") for classifier in names)
