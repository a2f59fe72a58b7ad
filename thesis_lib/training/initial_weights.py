"""The weights that a run starts from: random ones, timm's, those of a file or of another run."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from thesis_lib.backbones import check_backbone, size_options
from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.methods import TIMM
from thesis_lib.ranges import CHOICES
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.plateau import kept_epochs
from thesis_lib.runs.provenance import recorded_weights
from thesis_lib.system.files import file_digest, read_json
from thesis_lib.system.paths import find_path, relative_to_root
from thesis_lib.training import checkpoints
from thesis_lib.training.weight_files import fit_weights, read_weight_file

if TYPE_CHECKING:
    from timm.models import PretrainedCfg


@dataclass(frozen=True)
class InitialWeights:
    """Where a backbone's initial weights come from.

    Args:
        facts: for ``provenance.json``: source, tag, sha256, what was found, in words, and mean and
            std (3,) of the images with which they were trained; None: unknown.
        backbone: the weights; empty if the run has begun before.
        head: content of ``head.pth`` of a run that they come from, or None.
    """

    facts: dict[str, Any]
    backbone: Mapping[str, Tensor] = field(default_factory=dict)
    head: dict[str, Any] | None = None

    @property
    def mean(self) -> Sequence[float] | None:
        """Return the channel means of the images with which they were trained."""
        return self.facts["mean"]

    @property
    def std(self) -> Sequence[float] | None:
        """Return the channel standard deviations of these images."""
        return self.facts["std"]

    def load_into(self, model: nn.Module, classes: Sequence[str]) -> str:
        """Load the weights into a model that is about to be trained; return where they are from.

        A linear head is loaded where the model has one for the same classes.
        """
        model.backbone.load_state_dict(self.backbone)
        words = f"initial weights: {self.facts['source']} ({self.facts['words']})"
        if self.mean and self.std:
            shown = (" ".join(f"{x:.3f}" for x in values) for values in (self.mean, self.std))
            words += "; their mean {}, std {}".format(*shown)
        own = getattr(model, "head", None)
        if own is None or self.head is None or self.head["classes"] != list(classes):
            return words
        if "weight" not in self.head["weights"]:
            return f"{words}, without its random forest, which cannot be trained on"
        own.load_state_dict(self.head["weights"])
        return f"{words}, with its linear head"


def read_initial_weights(config: RunConfig, backbone: nn.Module) -> InitialWeights:
    """Read the weights that a run's settings ask for, and check that they fit its backbone.

    Args:
        config: its ``weights`` are ``timm``, a file, or the folder of a run.
        backbone: the run's backbone; its own weights do not change.

    Raises:
        InputError: if they cannot be had or do not fit.
    """
    if config.weights == TIMM:
        return _of_timm(config, backbone)
    path = find_path(config.weights)
    if path.is_dir():
        return _of_run(RunDirectory.open(path), backbone)
    return _of_file(path, config, backbone)


def view_of_weights(config: RunConfig) -> dict[str, Any]:
    """Return the image size and interpolation with which a run's initial weights were trained.

    Args:
        config: its ``weights`` and ``backbone`` matter.

    Returns:
        ``image_size`` and ``interpolation``, as far as they are known; see :func:`_described`.

    Raises:
        InputError: if the backbone is unknown, or the weights are those of a run that cannot be
            opened.
    """
    try:
        check_backbone(config.backbone)
    except ValueError as error:
        raise InputError(str(error)) from None
    path = find_path(config.weights)
    if config.weights != TIMM and path.is_dir():
        trained = RunDirectory.open(path).config
        return {"image_size": trained.image_size, "interpolation": trained.interpolation}
    about = _described(config)
    if about is None:
        return {}
    known = CHOICES["interpolation"]
    smooth = {"interpolation": about.interpolation} if about.interpolation in known else {}
    return {"image_size": about.input_size[-1], **smooth}


def _described(config: RunConfig) -> "PretrainedCfg | None":
    """Return timm's description of the weights that the name of the backbone stands for, or None.

    A file counts as the weights of a tag if the backbone's name has one.
    """
    import timm  # here, because it takes seconds to load

    of_name = config.weights == TIMM or "." in config.backbone
    about = timm.get_pretrained_cfg(config.backbone) if of_name else None
    return about if about and about.has_weights else None


def _in_words(about: "PretrainedCfg") -> str:
    return f"pretrained at {about.input_size[-1]} px, {about.interpolation} interpolation"


def begun_from(run: RunDirectory) -> InitialWeights | None:
    """Return what a run that has checkpoints has started from, as it was recorded; else None."""
    facts = recorded_weights(run) if any(run.checkpoints.glob("*.pth")) else {}
    return InitialWeights(facts) if facts else None


def random_words(config: RunConfig) -> str:
    """Say that a backbone with a tag starts from random weights, where its name suggests others."""
    tag = config.backbone.partition(".")[2]
    if config.weights or not tag:
        return ""
    return (
        f"{config.backbone} starts from random weights; for the pretrained ones of its tag {tag}, "
        "add --weights timm"
    )


def _of_timm(config: RunConfig, backbone: nn.Module) -> InitialWeights:
    """Let timm download its weights for the backbone's tag, or take them from its cache."""
    import timm

    name = config.backbone
    about = _described(config)
    if about is None:
        raise InputError(f"weights: timm has no pretrained weights for {name!r}{_tags(name)}")
    place = about.hf_hub_id or about.url
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # without a network, it would print each of its ten attempts
    try:
        options = size_options(name, config.image_size)
        whole = timm.create_model(name, pretrained=True, num_classes=0, **options)
    except MemoryError:
        raise
    except Exception as error:  # of the network, the hub's client or the disk
        reason = " ".join(f"{type(error).__name__} {error}".split())[:120]
        raise InputError(
            f"cannot load timm's weights for {name!r} ({reason}); without a network, download "
            f"model.safetensors of {place} from the Hugging Face hub on another computer, and give "
            "the file with --weights FILE"
        ) from None
    finally:
        hub.setLevel(level)
    found = whole.state_dict()
    checkpoints.check_weights(backbone, found, f"timm's {name}")
    facts = {
        "source": f"timm {about.architecture}.{about.tag}",
        "tag": about.tag,
        "sha256": _digest(found),
        "words": _in_words(about),
        "mean": list(about.mean),
        "std": list(about.std),
    }
    return InitialWeights(facts, found)


def _tags(name: str) -> str:
    """Return the tags with weights of the backbone's architecture, in words."""
    import timm

    architecture = name.partition(".")[0]
    tags = timm.list_pretrained(f"{architecture}.*")
    return f"; it has {', '.join(tags[:4])}" if tags else "; give a file with --weights FILE"


def _of_run(source: RunDirectory, backbone: nn.Module) -> InitialWeights:
    """Take the chosen checkpoint of a finished run with its head, or else its last one."""
    chosen = source.selection_file.is_file()
    kept = kept_epochs(source)
    if not kept:
        raise InputError(f"weights: {relative_to_root(source.path)} has no checkpoint yet")
    epoch = read_json(source.selection_file)["checkpoint"] if chosen else kept[-1]
    path = checkpoints.checkpoint_path(source, epoch)
    trained, about = checkpoints.load_backbone(path)
    where = relative_to_root(path)
    checkpoints.check_weights(backbone, trained.state_dict(), where)
    head = checkpoints.load(source.head_file) if chosen else None
    before = recorded_weights(source).get("seconds", 0)
    facts = {
        "seconds": before + sum(row["seconds"] for row in read_metrics(source)),
        "source": relative_to_root(source.path),
        "tag": "",
        "sha256": file_digest(path),
        "words": f"{'chosen' if chosen else 'last'} checkpoint, epoch {epoch}, trained at "
        f"{source.config.image_size} px, {source.config.interpolation} interpolation",
        "mean": about["mean"],
        "std": about["std"],
    }
    return InitialWeights(facts, trained.state_dict(), head)


def _of_file(path: Path, config: RunConfig, backbone: nn.Module) -> InitialWeights:
    tensors, content = read_weight_file(path)
    weights, words = fit_weights(backbone, tensors, str(path))
    about = _described(config)
    words += f", {_in_words(about)}" if about else ""
    stated = vars(about) if about else {}
    mean, std = (_channels(content.get(name, stated.get(name))) for name in ("mean", "std"))
    facts = {"source": str(path), "tag": "", "sha256": file_digest(path), "words": words}
    return InitialWeights({**facts, "mean": mean, "std": std}, weights)


def _channels(value: Any) -> list[float] | None:
    """Return the normalisation that a file states, if it is three numbers."""
    is_one = isinstance(value, list | tuple) and len(value) == 3
    return [float(x) for x in value] if is_one else None


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()
