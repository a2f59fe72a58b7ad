"""The ranges of the settings: which values each field of RunConfig may have."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from thesis_lib.methods import BALANCES, HEADS, LINEAR, METHODS, PLAIN, SAMPLINGS, UNTRAINED

# allowed values of the fields that have only a few
CHOICES = {
    **{"method": (*METHODS, *UNTRAINED), "head": tuple(HEADS)},
    **{"sampling": SAMPLINGS, "head_balance": BALANCES},
    **{"schedule": ("cosine", "step"), "fit": ("pad", "crop")},
    **{"interpolation": ("bilinear", "bicubic")},
    **{"device": ("auto", "cpu", "cuda", "mps"), "precision": ("auto", "float32", "bfloat16")},
    **{"cache": ("auto", "none", "memory"), "on_bad_image": ("error", "skip")},
}


def ranges(config: Any) -> Iterable[tuple[str, bool, str]]:
    """Yield (field of a RunConfig, whether its value is in range, the allowed values)."""
    for name, allowed in CHOICES.items():
        yield name, getattr(config, name) in allowed, f"{', '.join(allowed[:-1])} or {allowed[-1]}"
    yield "data", bool(config.data.strip()), "the path of a folder"
    names = [Path(data).name for data in (config.data, *config.other_splits)]
    yield "other_splits", len(set(names)) == len(names), "folders with other names than data"
    yield "backbone", bool(config.backbone.strip()), "lenet5 or the name of a timm model"
    yield "batch_size", config.batch_size >= 2, "at least 2 (the loss compares images)"
    yield "seed", 0 <= config.seed < 2**32, "from 0 to 4294967295"
    letters = config.tag.replace("_", "").replace(".", "").replace("-", "")
    simple = config.tag == "" or (letters.isalnum() and letters.isascii())
    yield "tag", simple, "of letters, digits, '.', '_' and '-'"
    for name in ("mean", "std"):
        value = getattr(config, name)
        yield name, value is None or len(value) == 3, "three numbers, one per channel"
    yield "mean", config.mean is None or all(0 <= m <= 1 for m in config.mean), "in [0, 1]"
    yield "std", config.std is None or all(0 < s < math.inf for s in config.std), "above 0"
    for name in (
        *("image_size", "projection_dim", "save_every"),
        *("head_epochs", "head_batch_size", "neighbours", "devices"),
    ):
        yield name, getattr(config, name) >= 1, "at least 1"
    fewest = 0 if config.method in UNTRAINED else 1
    yield "epochs", config.epochs >= fewest, "at least 1"
    for name in ("decay_epochs", "head_decay_epochs"):
        yield name, all(epoch >= 0 for epoch in getattr(config, name)), "0 or more each"
    for name in (
        *("warmup_epochs", "workers", "probe_from", "head_views", "crop_bottom"),
        "frozen_epochs",
    ):
        value = getattr(config, name)
        yield name, value is None or value >= 0, "0 or more"
    for name in (
        *("temperature", "base_temperature", "learning_rate", "decay_rate"),
        *("head_decay_rate", "worker_timeout", "text_width"),
    ):
        value = getattr(config, name)
        yield name, value > 0 and math.isfinite(value), "a number above 0"
    own = config.backbone_learning_rate
    yield "backbone_learning_rate", own is None or 0 < own < math.inf, "a number above 0"
    rates = config.head_learning_rates
    positive = all(rate > 0 and math.isfinite(rate) for rate in rates)
    unequal = 0 < len(rates) == len(set(rates))
    yield "head_learning_rates", positive and unequal, "one or more different numbers above 0"
    for name in ("weight_decay", "warmup_from", "rolling_minutes"):
        value = getattr(config, name)
        yield name, value >= 0 and math.isfinite(value), "0 or more"
    yield "duplicate_distance", 0 <= config.duplicate_distance <= 64, "from 0 to 64 bits"
    yield "group_by", _is_pattern(config.group_by), "a regular expression, or empty"
    last = config.probe_from is None or config.probe_from <= config.epochs
    yield "probe_from", last, f"at most epochs ({config.epochs})"
    epoch = config.table_checkpoint
    yield "table_checkpoint", epoch is None or epoch >= 1, "an epoch, 1 or more"
    is_fit = config.head == LINEAR or config.head_balance == PLAIN
    yield "head_balance", is_fit, f"{PLAIN} unless the head is {LINEAR}"
    yield "momentum", 0 <= config.momentum < 1, "from 0 to below 1"
    yield "plateau_share", 0 < config.plateau_share < 1, "between 0 and 1"


def _is_pattern(text: str) -> bool:
    """Return whether a text is a valid regular expression."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return True
