"""Load a finished model from a run, or from a folder written by ``thesis export``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import timm
from safetensors import SafetensorError
from torch import nn

import thesis_lib.models  # noqa: F401  (registers its models with timm)
from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.evaluation.features import FrozenBackbone
from thesis_lib.evaluation.lookup_table import StoredTable
from thesis_lib.evaluation.retrieval import stored_table
from thesis_lib.evaluation.statistics import validation_confidences
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import EARLIER, is_done
from thesis_lib.system import distributed
from thesis_lib.system.files import read_json
from thesis_lib.system.paths import relative_to_root, workbook_root
from thesis_lib.training.checkpoints import load_classifier

TABLE_NAME = "table.safetensors"  # the look-up table in an export folder
VALIDATION_NAME = "validation.csv"  # there, the predictions for the validation images


@dataclass(frozen=True)
class FinishedModel:
    """A backbone and head with everything needed to classify new images.

    Logits of the ``head`` are divided by ``temperature`` to calibrate the confidence. ``table``
    is the look-up table of training images, or None if ``lacking`` says why there is none.
    ``validation`` has true, predicted and calibrated confidence of each validation image.
    ``categories`` are the names in EcoTaxa of classes that come from one of its exports.
    """

    backbone: FrozenBackbone
    head: nn.Module
    classes: list[str]
    temperature: float
    table: StoredTable | None
    lacking: str
    categories: dict[str, str]
    validation: pd.DataFrame


def load_run_model(run: RunDirectory) -> FinishedModel:
    """Load the selected backbone and head of a run, with its look-up table.

    The table is built on first use. If it cannot be built because the data set is missing or
    has changed, the model is returned without a table.

    Raises:
        InputError: if the run has no current selection, or the table is damaged or belongs to
            another checkpoint.
    """
    if not is_done(run, "probe"):
        raise InputError(
            f"{run.path.name} was not probed with these settings; first run notebook 03 or "
            f"`thesis probe {run.path.name}` with the same settings"
        )
    classifier, head = load_classifier(run)
    table, lacking = None, ""
    try:
        table = table_of(run, head["checkpoint"])
    except InputError as error:
        if is_done(run, "table") or distributed.world_size() > 1:  # ranks must not part ways
            raise
        lacking = str(error)
    return FinishedModel(
        FrozenBackbone(
            classifier.backbone,
            head["mean"],
            head["std"],
            run.config.updated(crop_bottom=head["crop_bottom"]),
        ),
        classifier.head,
        head["classes"],
        read_json(run.selection_file)["temperature"],
        table,
        lacking,
        head["categories"],
        validation_confidences(head),
    )


def table_of(run: RunDirectory, checkpoint: int) -> StoredTable:
    """Load the run's look-up table, and build it if it is missing.

    Args:
        run: a run with a selection.
        checkpoint: the epoch whose features the table must contain.

    Raises:
        InputError: if the table cannot be built or read, or contains the features of another
            checkpoint.
    """
    stored = stored_table(run)
    if stored.checkpoint != checkpoint:
        raise InputError(
            f"{relative_to_root(run.table_file)} has features of checkpoint {stored.checkpoint}, "
            f"but the selected head belongs to checkpoint {checkpoint}; build the table again: "
            f"thesis retrieve {relative_to_root(run.path)} --table-checkpoint {checkpoint}"
        )
    return stored


def find_export(place: str) -> Path | None:
    """Find an exported model by its path, relative to here or to the workbook's root.

    Returns:
        The folder, or None if there is no exported model at this path.
    """
    path = Path(place).expanduser()
    folder = path if path.exists() else workbook_root() / path
    return folder if (folder / "model.safetensors").is_file() else None


def load_exported_model(folder: Path, settings: dict[str, Any]) -> FinishedModel:
    """Load a model written by ``thesis export``; the run itself is not needed.

    Args:
        folder: the export folder.
        settings: fields of RunConfig to set, such as device and workers.

    Raises:
        InputError: if the folder is not an export, was written by an earlier version, or
            contains damaged files.
    """
    stored = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    described = {**EARLIER, **stored}
    try:
        classes, temperature = described["label_names"], described["temperature"]
        categories = described["categories"]
        views = described["pretrained_cfg"]
        mean, std = views["mean"], views["std"]
        framing = {
            "image_size": views["input_size"][-1],
            "fit": described["fit"],
            "interpolation": views["interpolation"],
            "crop_bottom": described["crop_bottom"],
        }
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
    config = RunConfig.from_dict(settings).updated(**framing)
    return FinishedModel(
        FrozenBackbone(model, mean, std, config),
        head,
        classes,
        temperature,
        StoredTable.load(file) if file.is_file() else None,
        f"{folder} contains no {TABLE_NAME}",
        categories,
        read_validation(folder),
    )


def read_validation(folder: Path) -> pd.DataFrame:
    """Read the validation images of an export; no rows if an earlier version wrote it."""
    file = folder / VALIDATION_NAME
    texts = {"true": str, "predicted": str}
    if not file.is_file():
        return pd.DataFrame(columns=[*texts, "confidence"])
    return pd.read_csv(file, dtype=texts, keep_default_na=False)
