"""RunConfig: every setting of one run, with the thesis's values as the defaults."""

import math
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from thesis_lib.coercion import REFUSED, coerce, describe
from thesis_lib.errors import InputError, nearest

# A field's stage says what follows when it changes: another backbone (pretrain), another
# head for the same backbone (probe), another look-up table (retrieve), or nothing but where it
# runs and what is shown (machine).
IDENTITY, PRETRAIN, PROBE, RETRIEVE = "identity", "pretrain", "probe", "retrieve"
MACHINE = "machine"
GRID_FIELDS = ("backbone", "batch_size")  # of which `thesis run` takes several values
# method -> the name of its loss
METHODS = {"supcon": "SupCon loss", "simclr": "NT-Xent loss", "cross-entropy": "cross-entropy"}
FALSE_POSITIVE_RATE = (
    0.05  # share of images of known classes that may look unlike what was trained on
)
# settings that shape figures and tables, and neither a run nor its results
DISPLAY_FIELDS = ("duplicate_distance", "group_by", "text_width")
# what a field of few values can be
CHOICES = {
    "method": tuple(METHODS),
    "schedule": ("cosine", "step"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "precision": ("auto", "float32", "bfloat16"),
    "cache": ("auto", "none", "memory", "disk"),
    "on_bad_image": ("error", "skip"),
}


def data_set_name(data: str) -> str:
    """The last part of a folder's path, also where that ends in dots."""
    last = Path(data).name
    return Path(data).resolve().name if last in ("", "..") else last


def is_pattern(text: str) -> bool:
    """Whether a text is a regular expression."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _setting(default: Any, stage: str, help: str) -> Any:
    return field(default=default, metadata={"stage": stage, "help": help})


@dataclass(frozen=True)
class RunConfig:
    """Every setting of one run.

    The command line's options, the notebooks' parameters and ``config.json`` are these fields.

    Raises:
        InputError: for a value of the wrong type or out of range, naming the field, the value
            and what would do.
    """

    data: str = _setting("data/digits", MACHINE, "folder that holds train/, val/ and test/")
    backbone: str = _setting("resnet50", IDENTITY, "lenet5 or any model name of timm")
    batch_size: int = _setting(32, IDENTITY, "images in a batch of pretraining, two views each")
    seed: int = _setting(42, IDENTITY, "every random choice follows from it")
    tag: str = _setting("", IDENTITY, "tells runs apart that differ in some other setting")

    method: str = _setting(
        "supcon",
        PRETRAIN,
        "supcon, simclr (its loss without labels) or cross-entropy (the baseline: backbone and "
        "classifier together, one view)",
    )
    image_size: int = _setting(224, PRETRAIN, "side of the square that the backbone sees, px")
    small_images: bool | None = _setting(
        None,
        PRETRAIN,
        "3x3 stride-1 stem without max-pooling; by default up to 64 px where there is such a stem",
    )
    mean: tuple[float, ...] | None = _setting(
        None, PRETRAIN, "channel means on [0, 1]; by default measured on train/"
    )
    std: tuple[float, ...] | None = _setting(
        None, PRETRAIN, "channel standard deviations; by default measured on train/"
    )
    on_bad_image: str = _setting(
        "error", PRETRAIN, "an image that cannot be read: error, or skip: leave it out and say so"
    )
    projection_dim: int = _setting(128, PRETRAIN, "width of the projection head's output")
    temperature: float = _setting(0.07, PRETRAIN, "temperature of the contrastive loss")
    base_temperature: float = _setting(0.07, PRETRAIN, "the loss is scaled by temperature / this")
    epochs: int = _setting(1000, PRETRAIN, "epochs of pretraining")
    learning_rate: float = _setting(0.016, PRETRAIN, "peak learning rate of SGD")
    momentum: float = _setting(0.9, PRETRAIN, "momentum of SGD")
    weight_decay: float = _setting(1e-4, PRETRAIN, "weight decay of SGD")
    schedule: str = _setting("cosine", PRETRAIN, "learning-rate schedule: cosine or step")
    decay_rate: float = _setting(
        0.1, PRETRAIN, "step: factor at each decay epoch; cosine: its cube is the floor"
    )
    decay_epochs: tuple[int, ...] = _setting(
        (700, 800, 900), PRETRAIN, "epochs after which the step schedule decays"
    )
    warmup_epochs: int = _setting(
        10, PRETRAIN, "epochs of linear warm-up, at most half of all epochs"
    )
    warmup_from: float = _setting(0.0, PRETRAIN, "learning rate at which warm-up starts")
    save_every: int = _setting(50, PRETRAIN, "epochs between kept checkpoints")

    probe_from: int | None = _setting(
        None, PROBE, "first checkpoint (epoch) to probe; by default where the loss plateaus"
    )
    plateau_share: float = _setting(
        0.02, PROBE, "plateau: the loss has less than this share of its total fall to go"
    )
    head_epochs: int = _setting(100, PROBE, "epochs of training the linear head")
    head_batch_size: int = _setting(256, PROBE, "batch size of training the linear head")
    head_learning_rates: tuple[float, ...] = _setting(
        (0.25,), PROBE, "learning rates of the linear head; of several the best on validation"
    )
    head_decay_epochs: tuple[int, ...] = _setting(
        (60, 75, 90), PROBE, "head epochs after which the learning rate decays"
    )
    head_decay_rate: float = _setting(0.2, PROBE, "factor at each head decay epoch")
    head_views: int = _setting(
        16,
        PROBE,
        "random crops of each training image that the head learns from in turn; 0: the whole image",
    )

    table_checkpoint: int | None = _setting(
        None,
        RETRIEVE,
        "checkpoint (epoch) whose features fill the look-up table; by default the chosen one, or "
        "the last where there is no val/ to choose on",
    )
    neighbours: int = _setting(1, RETRIEVE, "nearest images of the look-up table that vote")
    test_curve: bool = _setting(
        False, RETRIEVE, "also show every pruning threshold on the test set, marked as such"
    )

    workers: int | None = _setting(
        None, MACHINE, "processes that load images; by default from the number of cores"
    )
    worker_timeout: float = _setting(
        300.0, MACHINE, "seconds without a batch after which a loading process counts as hung"
    )
    rolling_minutes: float = _setting(
        1.0, MACHINE, "minutes between two saves of last.pth, but at an epoch's end alone"
    )
    force: bool = _setting(
        False, MACHINE, "go on although checkpoint and settings, data or code differ"
    )
    device: str = _setting("auto", MACHINE, "auto, cpu, cuda or mps")
    devices: int = _setting(
        1, MACHINE, "GPUs, or processes on the CPU, that share each batch; started by torchrun"
    )
    precision: str = _setting(
        "auto",
        MACHINE,
        "of pretraining: float32, bfloat16 (autocast), or auto: bfloat16 on a GPU that has it",
    )
    compile: bool = _setting(False, MACHINE, "pretrain through torch.compile")
    cache: str = _setting(
        "auto",
        MACHINE,
        "decoded images: none, memory, disk, or auto: memory where they take up to 256 MiB",
    )
    text_width: float = _setting(160.0, MACHINE, "width of the thesis's text block, mm")
    duplicate_distance: int = _setting(
        2, MACHINE, "images whose perceptual hashes differ in up to so many of 64 bits are alike"
    )
    group_by: str = _setting(
        "", MACHINE, "pattern whose group in a file's name tells what belongs together"
    )

    def __post_init__(self) -> None:
        for name, annotation in typing.get_type_hints(type(self)).items():
            value = coerce(getattr(self, name), annotation)
            if value is REFUSED:
                raise InputError(
                    f"{name} must be {describe(annotation)}, not {getattr(self, name)!r}"
                )
            object.__setattr__(self, name, value)
        for name, holds, needs in self._ranges():
            if not holds:
                raise InputError(f"{name} must be {needs}, not {getattr(self, name)!r}")

    def _ranges(self) -> Iterable[tuple[str, bool, str]]:
        """Yield (field, whether its value is in range, what would do)."""
        yield "data", bool(self.data.strip()), "the path of a folder"
        yield "backbone", bool(self.backbone.strip()), "lenet5 or a model name of timm"
        yield "batch_size", self.batch_size >= 2, "at least 2 (a single image has no pair)"
        yield "seed", 0 <= self.seed < 2**32, "from 0 to 4294967295"
        letters = self.tag.replace("_", "").replace(".", "").replace("-", "")
        simple = self.tag == "" or (letters.isalnum() and letters.isascii())
        yield "tag", simple, "of letters, digits, '.', '_' and '-'"
        for name in ("mean", "std"):
            value = getattr(self, name)
            yield name, value is None or len(value) == 3, "three numbers, one a channel"
        yield "mean", self.mean is None or all(0 <= m <= 1 for m in self.mean), "on [0, 1]"
        yield "std", self.std is None or all(0 < s < math.inf for s in self.std), "above 0"
        for name, allowed in CHOICES.items():
            listed = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
            yield name, getattr(self, name) in allowed, listed
        for name in (
            *("image_size", "projection_dim", "epochs", "save_every"),
            *("head_epochs", "head_batch_size", "neighbours", "devices"),
        ):
            yield name, getattr(self, name) >= 1, "at least 1"
        for name in ("decay_epochs", "head_decay_epochs"):
            yield name, all(epoch >= 0 for epoch in getattr(self, name)), "0 or more each"
        for name in ("warmup_epochs", "workers", "probe_from", "head_views"):
            value = getattr(self, name)
            yield name, value is None or value >= 0, "0 or more"
        for name in (
            *("temperature", "base_temperature", "learning_rate", "decay_rate"),
            *("head_decay_rate", "worker_timeout", "text_width"),
        ):
            value = getattr(self, name)
            yield name, value > 0 and math.isfinite(value), "a number above 0"
        rates = self.head_learning_rates
        positive = all(rate > 0 and math.isfinite(rate) for rate in rates)
        unequal = 0 < len(rates) == len(set(rates))
        yield "head_learning_rates", positive and unequal, "one or more different numbers above 0"
        for name in ("weight_decay", "warmup_from", "rolling_minutes"):
            value = getattr(self, name)
            yield name, value >= 0 and math.isfinite(value), "0 or more"
        yield "duplicate_distance", 0 <= self.duplicate_distance <= 64, "from 0 to 64 bits"
        yield "group_by", is_pattern(self.group_by), "a regular expression, or empty"
        last = self.probe_from is None or self.probe_from <= self.epochs
        yield "probe_from", last, f"at most epochs ({self.epochs})"
        epoch = self.table_checkpoint
        yield "table_checkpoint", epoch is None or epoch >= 1, "an epoch, 1 or more"
        yield "momentum", 0 <= self.momentum < 1, "from 0 to below 1"
        yield "plateau_share", 0 < self.plateau_share < 1, "between 0 and 1"

    @property
    def data_name(self) -> str:
        """Name of the data set: the last part of its folder's path."""
        return data_set_name(self.data)

    @property
    def run_name(self) -> str:
        """``<backbone>-bs<batch>-seed<seed>[-<tag>]``, safe as a folder's name."""
        backbone = "".join(c if c.isalnum() or c in "._-" else "_" for c in self.backbone)
        tag = f"-{self.tag}" if self.tag else ""
        return f"{backbone}-bs{self.batch_size}-seed{self.seed}{tag}"

    @property
    def views(self) -> int:
        """Random views of each image in an epoch: two for a contrastive method, else one."""
        return 1 if self.method == "cross-entropy" else 2

    @property
    def loss_name(self) -> str:
        """What the method's loss is called in figures."""
        return METHODS[self.method]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def field_names(cls, *stages: str) -> list[str]:
        """Names of the fields of the given stages, or of all."""
        return [f.name for f in fields(cls) if not stages or f.metadata["stage"] in stages]

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "RunConfig":
        """Build a config from names and values.

        Raises:
            InputError: for a name that is no field, with the nearest ones.
        """
        names = cls.field_names()
        for name in settings:
            if name not in names:
                raise InputError(f"unknown setting {name!r}{nearest(name, names)}")
        return cls(**settings)

    def differences(self, other: "RunConfig", stages: tuple[str, ...] = ()) -> dict[str, tuple]:
        """Fields, of some stages or of all, whose values differ: name -> (mine, the other's)."""
        return {
            name: (getattr(self, name), getattr(other, name))
            for name in self.field_names(*stages)
            if getattr(self, name) != getattr(other, name)
        }

    def updated(self, **settings: Any) -> "RunConfig":
        """A copy with some fields changed, checked like a new one."""
        return replace(self, **settings)
