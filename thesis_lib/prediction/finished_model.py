"""A finished classifier: of a run, or of the folder that ``thesis export`` made of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from torch import nn

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.evaluation.lookup_table import StoredTable
from thesis_lib.evaluation.retrieval import stored_table
from thesis_lib.models import Classifier
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_probed, is_table_made
from thesis_lib.system.files import read_json
from thesis_lib.system.paths import relative_to_root, workbook_root
from thesis_lib.training.checkpoints import load_classifier

TABLE_NAME = "table.safetensors"  # in an export, beside timm's two files


@dataclass(frozen=True)
class FinishedModel:
    """What classifies new images.

    ``mean`` and ``std`` normalise views of ``image_size`` px; logits are divided by
    ``temperature``. ``table`` holds the training images to compare with, or ``lacking`` says why
    there is none. ``config`` says where to compute.
    """

    classifier: Classifier
    classes: list[str]
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    temperature: float
    table: StoredTable | None
    lacking: str
    config: RunConfig


def load_run_model(run: RunDirectory) -> FinishedModel:
    """The chosen backbone and head of a run, with its look-up table.

    The table is made on first use. Where it cannot be made, since the data are gone or others,
    the model does without.

    Raises:
        InputError: where nothing has been selected, or the table is damaged or another
            checkpoint's.
    """
    if not is_probed(run):
        raise InputError(
            f"{run.path.name} was not probed with these settings; run notebook 03 or "
            f"`thesis probe {run.path.name}` with them first"
        )
    classifier, head = load_classifier(run)
    table, lacking = None, ""
    try:
        table = table_of(run, head["checkpoint"])
    except InputError as error:
        if is_table_made(run):
            raise
        lacking = str(error)
    return FinishedModel(
        classifier,
        head["classes"],
        run.config.image_size,
        head["mean"],
        head["std"],
        read_json(run.selection_file)["temperature"],
        table,
        lacking,
        run.config,
    )


def table_of(run: RunDirectory, checkpoint: int) -> StoredTable:
    """The run's look-up table, made where it is missing.

    Raises:
        InputError: where it cannot be made or read, or holds another checkpoint's features.
    """
    stored = stored_table(run)
    if stored.checkpoint != checkpoint:
        raise InputError(
            f"{relative_to_root(run.table_file)} holds features of checkpoint {stored.checkpoint}, "
            f"but the chosen head belongs to checkpoint {checkpoint}; make the table again: "
            f"thesis retrieve {relative_to_root(run.path)} --table-checkpoint {checkpoint}"
        )
    return stored


def find_export(place: str) -> Path | None:
    """The folder of ``thesis export`` at a path from here or from the workbook's root, if any."""
    path = Path(place).expanduser()
    folder = path if path.exists() else workbook_root() / path
    return folder if (folder / "model.safetensors").is_file() else None


def load_exported_model(folder: Path, settings: dict[str, Any]) -> FinishedModel:
    """The model that ``thesis export`` wrote, on its own.

    Args:
        folder: what it wrote.
        settings: of RunConfig, such as device and workers.

    Raises:
        InputError: for another folder, one of an earlier version, or damaged files.
    """
    described = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    try:
        classes, temperature = described["label_names"], described["temperature"]
        views = described["pretrained_cfg"]
        mean, std, image_size = views["mean"], views["std"], views["input_size"][-1]
        model = timm.create_model(f"local-dir:{folder.absolute()}", pretrained=True)
        head = model.get_submodule(views["classifier"])
        model.set_submodule(views["classifier"], nn.Identity())
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{folder} was not written by this version of `thesis export` (its config.json lacks "
            f"{error}); export the run again"
        ) from None
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"the model in {folder} cannot be loaded ({reason}); export the run again"
        ) from None
    file = folder / TABLE_NAME
    return FinishedModel(
        Classifier(model, head).eval(),
        classes,
        image_size,
        mean,
        std,
        temperature,
        StoredTable.load(file) if file.is_file() else None,
        f"{folder} holds no {TABLE_NAME}",
        RunConfig.from_dict(settings),
    )
