"""Define RunConfig: all settings of one run, with the thesis's values as defaults."""

import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from thesis_lib.coercion import REFUSED, coerce, describe
from thesis_lib.errors import InputError, nearest
from thesis_lib.methods import LINEAR, METHODS, NATURAL, PLAIN, TIMM, implied
from thesis_lib.ranges import ranges

# A field's stage says what has to be redone when it changes: pretraining, the linear head
# (probe) or the look-up table (retrieve). Fields of the stage "machine" only change where and
# how fast the run computes, or what is displayed; "comparison" is for notebook 06 alone.
IDENTITY, PRETRAIN, PROBE, RETRIEVE = "identity", "pretrain", "probe", "retrieve"
MACHINE, COMPARISON = "machine", "comparison"
GRID_FIELDS = ("backbone", "batch_size", "seed", "method")  # `thesis run` takes several values
# largest fraction of images of known classes that may be flagged as out-of-distribution
FALSE_POSITIVE_RATE = 0.05
# settings that only affect figures and tables, not the results of a run
DISPLAY_FIELDS = ("duplicate_distance", "group_by", "text_width")
DATA_FIELDS = (*DISPLAY_FIELDS, "crop_bottom")  # with which a data set is measured and shown


def data_set_name(data: str) -> str:
    """Return the last part of a folder's path, also for paths such as ``.`` or ``..``."""
    last = Path(data).name
    return Path(data).resolve().name if last in ("", "..") else last


def _setting(default: Any, stage: str, help: str) -> Any:
    return field(default=default, metadata={"stage": stage, "help": help})


@dataclass(frozen=True)
class RunConfig:
    """Hold all settings of one run.

    These fields are the command-line options, the notebook parameters and ``config.json``.

    Raises:
        InputError: if a value has the wrong type or is out of range. The message names the
            field, the value and the allowed values.
    """

    data: str = _setting(
        "data/digits", MACHINE, "folder that holds train/, val/ and test/, or its name in data/"
    )
    backbone: str = _setting("resnet50", IDENTITY, "lenet5 or the name of any timm model")
    batch_size: int = _setting(32, IDENTITY, "images per pretraining batch (two views each)")
    seed: int = _setting(42, IDENTITY, "seed of all random choices")
    method: str = _setting(
        "supcon",
        IDENTITY,
        "supcon, simclr (contrastive loss without labels), cross-entropy (backbone and classifier "
        "trained together on one view), frozen (no training of the backbone) or regions (no "
        "backbone: a random forest on size, shape, grey values and texture)",
    )
    tag: str = _setting("", IDENTITY, "suffix of the run's name, to tell runs apart")

    weights: str = _setting(
        "",
        PRETRAIN,
        "initial weights: timm (pretrained ones, by the backbone's tag), a file (.safetensors, "
        ".pth) or the folder of a run; by default random",
    )
    image_size: int = _setting(
        224, PRETRAIN, "side of the square input images, px; by default 224, or as for the weights"
    )
    fit: str = _setting(
        "crop",
        PRETRAIN,
        "how an image becomes square: crop (keep only the center) or pad (add margins in the "
        "color of its border)",
    )
    interpolation: str = _setting(
        "bilinear",
        PRETRAIN,
        "how images are resized: bilinear or bicubic; by default bilinear, or as for the weights",
    )
    crop_bottom: int | None = _setting(
        None,
        PRETRAIN,
        "rows to cut off the bottom of each image (legend, scale bar), px; by default the value "
        "given to `thesis split --crop-bottom`",
    )
    small_images: bool | None = _setting(
        None, PRETRAIN, "3x3 stride-1 stem, no max-pooling; by default for ResNets up to 64 px"
    )
    zero_init_last: bool | None = _setting(
        None,
        PRETRAIN,
        "last normalisation of each residual block starts with zeros; by default as in timm",
    )
    mean: tuple[float, ...] | None = _setting(
        None, PRETRAIN, "channel means in [0, 1]; by default computed from train/"
    )
    std: tuple[float, ...] | None = _setting(
        None, PRETRAIN, "channel standard deviations; by default computed from train/"
    )
    on_bad_image: str = _setting(
        "error", PRETRAIN, "unreadable images: error, or skip (leave out and list them)"
    )
    sampling: str = _setting(
        NATURAL,
        PRETRAIN,
        "how often an image is drawn: natural (once per epoch), sqrt or balanced (in proportion to "
        "the square root of its class's number of images, or each class equally often)",
    )
    projection_dim: int = _setting(128, PRETRAIN, "output dimension of the projection head")
    temperature: float = _setting(0.07, PRETRAIN, "temperature of the contrastive loss")
    base_temperature: float = _setting(
        0.07, PRETRAIN, "the loss is multiplied by temperature / base_temperature"
    )
    epochs: int = _setting(1000, PRETRAIN, "number of pretraining epochs")
    learning_rate: float = _setting(0.016, PRETRAIN, "peak learning rate of SGD")
    backbone_learning_rate: float | None = _setting(
        None, PRETRAIN, "peak learning rate of the backbone; by default as that of its head"
    )
    frozen_epochs: int = _setting(
        0, PRETRAIN, "epochs at the start in which only the backbone's head is trained"
    )
    momentum: float = _setting(0.9, PRETRAIN, "momentum of SGD")
    weight_decay: float = _setting(1e-4, PRETRAIN, "weight decay of SGD")
    schedule: str = _setting("cosine", PRETRAIN, "learning-rate schedule: cosine or step")
    decay_rate: float = _setting(
        0.1, PRETRAIN, "step: factor at each decay epoch; cosine: final rate is peak x decay_rate^3"
    )
    decay_epochs: tuple[int, ...] = _setting(
        (700, 800, 900), PRETRAIN, "epochs after which the step schedule lowers the learning rate"
    )
    warmup_epochs: int = _setting(
        10, PRETRAIN, "epochs of linear warm-up, at most half of all epochs"
    )
    warmup_from: float = _setting(0.0, PRETRAIN, "learning rate at the start of the warm-up")
    save_every: int = _setting(50, PRETRAIN, "number of epochs between kept checkpoints")

    probe_from: int | None = _setting(
        None, PROBE, "first checkpoint (epoch) to probe; by default where the loss plateau starts"
    )
    plateau_share: float = _setting(
        0.02,
        PROBE,
        "the plateau starts where less than this fraction of the decrease in loss remains",
    )
    head: str = _setting(
        LINEAR,
        PROBE,
        "classifier on the features: linear, or forest (a random forest on the first 50 principal "
        "components)",
    )
    head_balance: str = _setting(
        PLAIN,
        PROBE,
        "loss of the linear head: plain, weighted (each class counts the same) or logit-adjusted "
        "(as if all classes were equally frequent)",
    )
    head_epochs: int = _setting(100, PROBE, "training epochs of the linear head")
    head_batch_size: int = _setting(256, PROBE, "batch size for training the linear head")
    head_learning_rates: tuple[float, ...] = _setting(
        (0.25,), PROBE, "learning rates to try for the linear head; the best on validation is used"
    )
    head_decay_epochs: tuple[int, ...] = _setting(
        (60, 75, 90), PROBE, "head epochs after which its learning rate is lowered"
    )
    head_decay_rate: float = _setting(0.2, PROBE, "learning-rate factor at each head decay epoch")
    head_views: int = _setting(
        16,
        PROBE,
        "random crops per training image, one per head epoch in rotation; 0: the evaluation view",
    )

    table_checkpoint: int | None = _setting(
        None,
        RETRIEVE,
        "checkpoint (epoch) that computes the look-up table; by default the chosen one, or the "
        "last one if there is no val/ folder",
    )
    neighbours: int = _setting(1, RETRIEVE, "number of nearest neighbours that vote")
    test_curve: bool = _setting(
        False, RETRIEVE, "also evaluate every pruning threshold on the test set, for display only"
    )

    workers: int | None = _setting(
        None, MACHINE, "number of data-loading workers; by default from the number of CPU cores"
    )
    worker_timeout: float = _setting(
        300.0, MACHINE, "seconds to wait for a batch before data-loading workers count as hung"
    )
    rolling_minutes: float = _setting(
        1.0, MACHINE, "save last.pth at the end of an epoch, at most once in this many minutes"
    )
    force: bool = _setting(
        False, MACHINE, "resume even if settings, data or code differ from the checkpoint"
    )
    device: str = _setting("auto", MACHINE, "auto, cpu, cuda or mps")
    devices: int = _setting(
        1, MACHINE, "number of GPUs (or CPU processes) that share each batch, started by torchrun"
    )
    precision: str = _setting(
        "auto",
        MACHINE,
        "pretraining in float32, bfloat16 (autocast) or auto (bfloat16 on GPUs that support it)",
    )
    compile: bool = _setting(False, MACHINE, "use torch.compile for pretraining")
    cache: str = _setting(
        "auto", MACHINE, "cache decoded images: none, memory or auto (memory up to 256 MiB)"
    )
    text_width: float = _setting(160.0, MACHINE, "width of the thesis's text block, mm")
    duplicate_distance: int = _setting(
        2, MACHINE, "near-duplicates: perceptual hashes differ in at most this many of 64 bits"
    )
    group_by: str = _setting(
        "", MACHINE, "regular expression; files with the same match of its group belong together"
    )
    other_splits: tuple[str, ...] = _setting(
        (), COMPARISON, "further splits of the same images, which notebook 06 compares"
    )

    def __post_init__(self) -> None:
        if self.weights == TIMM and self.small_images is None:  # they are for the usual stem
            object.__setattr__(self, "small_images", False)
        for name, annotation in typing.get_type_hints(type(self)).items():
            value = coerce(getattr(self, name), annotation)
            if value is REFUSED:
                raise InputError(
                    f"{name} must be {describe(annotation)}, not {getattr(self, name)!r}"
                )
            object.__setattr__(self, name, value)
        own = (f for f in fields(self) if f.metadata["stage"] in (PRETRAIN, PROBE))
        for name, value in implied(self.method, {f.name: f.default for f in own}).items():
            object.__setattr__(self, name, value)
        for name, holds, needs in ranges(self):
            if not holds:
                raise InputError(f"{name} must be {needs}, not {getattr(self, name)!r}")

    @property
    def data_name(self) -> str:
        """Return the name of the data set: the last part of its folder's path."""
        return data_set_name(self.data)

    @property
    def run_name(self) -> str:
        """Return ``<backbone>-bs<batch>-seed<seed>[-<method>][-<tag>]``, safe as a folder name.

        The method is left out if it is the default, or the name of its backbone.
        """
        backbone = "".join(c if c.isalnum() or c in "._-" else "_" for c in self.backbone)
        method = f"-{self.method}" if self.method not in (RunConfig.method, backbone) else ""
        tag = f"-{self.tag}" if self.tag else ""
        return f"{backbone}-bs{self.batch_size}-seed{self.seed}{method}{tag}"

    @property
    def views(self) -> int:
        """Return the number of views per image: two for contrastive methods, else one."""
        return 2 if self.method in ("supcon", "simclr") else 1

    @property
    def loss_name(self) -> str:
        """Return the name of the method's loss, as shown in figures."""
        return METHODS[self.method]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as values that JSON can store."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def field_names(cls, *stages: str) -> list[str]:
        """Return the names of the fields of the given stages, or of all stages."""
        return [f.name for f in fields(cls) if not stages or f.metadata["stage"] in stages]

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "RunConfig":
        """Create a config from a mapping of field names to values.

        Raises:
            InputError: if a name is not a field. The message suggests similar names.
        """
        names = cls.field_names()
        for name in settings:
            if name not in names:
                raise InputError(f"unknown setting {name!r}{nearest(name, names)}")
        return cls(**settings)

    def differences(self, other: "RunConfig", stages: tuple[str, ...] = ()) -> dict[str, tuple]:
        """Return the fields (of some stages or all) that differ: name -> (own, other value)."""
        return {
            name: (getattr(self, name), getattr(other, name))
            for name in self.field_names(*stages)
            if getattr(self, name) != getattr(other, name)
        }

    def updated(self, **settings: Any) -> "RunConfig":
        """Return a copy with some fields changed, validated like a new config."""
        return replace(self, **settings)
