"""Locate the files of a run, find runs, and compare their settings."""

import json
from pathlib import Path
from typing import Any

from thesis_lib.config import IDENTITY, PRETRAIN, PROBE, RunConfig
from thesis_lib.errors import InputError, nearest
from thesis_lib.system.files import read_json, write_json
from thesis_lib.system.paths import (
    data_runs_folder,
    figures_folder,
    find_data,
    relative_to_root,
    workbook_root,
)


class RunDirectory:
    """One run's folder: ``runs/<data>/<backbone>-bs<batch>-seed<seed>[-<method>][-<tag>]``.

    The paths of all its files are defined here. ``config.json`` holds the settings of the run;
    the folder's name is only a label.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.path = data_runs_folder(config.data_name) / config.run_name
        self.config_file = self.path / "config.json"
        self.provenance_file = self.path / "provenance.json"
        self.status_file = self.path / "status.json"
        self.metrics_file = self.path / "metrics.csv"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.last_checkpoint = self.checkpoints / "last.pth"
        self.previous_checkpoint = self.checkpoints / "previous.pth"
        self.restarts_file = self.path / "lives.json"
        self.bad_batch_file = self.path / "bad_batch.json"
        self.heads = self.path / "heads"
        self.probe_file = self.path / "probe.csv"
        self.probe_curves_file = self.path / "probe_curves.csv"
        self.selection_file = self.path / "selection.json"
        self.head_file = self.path / "head.pth"
        self.test_file = self.path / "test.json"
        self.superseded_test_file = self.path / "test.superseded.json"
        self.predictions_file = self.path / "predictions.csv"
        self.embedding_file = self.path / "embedding.csv"
        self.calibration_file = self.path / "calibration.csv"
        self.confidences_file = self.path / "confidences.csv"
        self.table_file = self.path / "table.safetensors"
        self.table_choice_file = self.path / "table.json"
        self.ood_file = self.path / "ood.csv"
        self.learning_curve_file = self.path / "learning_curve.csv"
        self.retrieval_file = self.path / "retrieval.csv"
        self.retrieval_test_file = self.path / "retrieval.json"
        self.retrieval_predictions_file = self.path / "retrieval_predictions.csv"
        self.elsewhere = self.path / "elsewhere"
        self.notebooks = self.path / "notebooks"
        self.figures = figures_folder(config.data_name) / config.run_name

    def __repr__(self) -> str:
        return f"RunDirectory({relative_to_root(self.path)})"

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Open the run in a folder.

        Args:
            path: the folder, relative to the working directory or to the workbook's root.

        Raises:
            InputError: if the folder is not a run (the message gives the runs with the most
                similar names) or has been renamed.
        """
        path = path if path.exists() else workbook_root() / path
        if not (path / "config.json").is_file():
            known = [str(p.parent) for p in data_runs_folder("").glob("*/*/config.json")]
            raise InputError(
                f"{path} is not a run: it has no config.json"
                f"{nearest(str(path.absolute()), known)}; `thesis status` lists the runs"
            )
        run = cls(RunConfig.from_dict(read_json(path / "config.json")))
        if run.path.resolve() != path.resolve():
            or_tag = ", or set 'tag' in its config.json to match its name"
            raise InputError(
                f"{path} holds the config.json of {relative_to_root(run.path)}; rename the folder "
                f"to {run.path.name}{or_tag if run.config.method == RunConfig.method else ''}"
            )
        return run

    @classmethod
    def find(cls, **settings: Any) -> "RunDirectory":
        """Find a pretrained run by its settings, for the stages after pretraining.

        Settings that only later stages use (``probe_from``, ``head_epochs``, ...) may differ from
        those in ``config.json``, and then replace them. All others must match.

        Args:
            settings: fields of :class:`RunConfig` and their values.

        Raises:
            InputError: if there is no such run, or it was trained with other settings.
        """
        requested = cls(RunConfig.from_dict(settings))
        if not requested.config_file.is_file():
            raise InputError(
                f"there is no run {relative_to_root(requested.path)}; train it first with notebook "
                "02 or `thesis pretrain` (`thesis status` lists the runs)"
            )
        stored = cls.open(requested.path).config
        differing = {
            name: values
            for name, values in stored.differences(requested.config, (IDENTITY, PRETRAIN)).items()
            if name in settings
        }
        if differing:
            raise InputError(_difference_message(requested, differing))
        return cls(stored.updated(**settings))

    def check_config(self, stages: tuple[str, ...] = (IDENTITY, PRETRAIN, PROBE)) -> None:
        """Compare the settings with the run's ``config.json``, if there is one.

        Args:
            stages: stages whose settings have to match.

        Raises:
            InputError: if settings differ (the message names them and how to keep both runs), or
                if the run has checkpoints but no ``config.json``.
        """
        if not self.config_file.is_file():
            if any(self.checkpoints.glob("*.pth")):
                raise InputError(
                    f"{relative_to_root(self.checkpoints)} holds checkpoints, but the run has no "
                    "config.json; restore it (every checkpoint stores it as 'config'), or start a "
                    "new run with --tag NAME"
                )
            return
        stored = RunConfig.from_dict(read_json(self.config_file))
        differing = stored.differences(self.config, stages)
        if differing:
            raise InputError(_difference_message(self, differing))

    def write_config(self) -> None:
        """Write ``config.json``, with the path of the data relative to the workbook's root.

        ``force`` and ``devices`` are not saved, as they only apply to the current start.
        """
        data = relative_to_root(find_data(self.config.data))
        config = self.config.updated(data=data, force=False, devices=1)
        write_json(self.config_file, config.to_dict())


def listed_differences(differing: dict[str, tuple]) -> str:
    """Format the result of :meth:`RunConfig.differences`: ``epochs = 3 (requested: 2), ...``."""
    return ", ".join(
        f"{name} = {json.dumps(stored)} (requested: {json.dumps(requested)})"
        for name, (stored, requested) in differing.items()
    )


def _difference_message(run: RunDirectory, differing: dict[str, tuple]) -> str:
    message = (
        f"{relative_to_root(run.path)} was made with {listed_differences(differing)}; "
        "to keep both runs, give the new one a name with --tag NAME (in a notebook: tag = 'NAME')"
    )
    if set(differing) <= set(RunConfig.field_names(PROBE)):
        options = " ".join(f"--{name.replace('_', '-')} ..." for name in differing)
        message += f"; to probe the same backbone again: thesis probe {run.path.name} {options}"
    return message


def data_folders(data_name: str | None = None) -> list[Path]:
    """Return the folder ``runs/<data>`` of each data set, or of one, if it exists; sorted."""
    # A name is never part of a pattern: it may contain "[" or "*".
    folders = data_runs_folder("").glob("*") if data_name is None else [data_runs_folder(data_name)]
    return sorted(folder for folder in folders if folder.is_dir())


def run_folders(data_name: str | None = None) -> list[Path]:
    """Return all folders with a ``config.json``, or those of one data set, sorted by name."""
    return [
        file.parent
        for folder in data_folders(data_name)
        for file in sorted(folder.glob("*/config.json"))
    ]


def check_has_runs(data_name: str | None) -> None:
    """Check that a data set has runs; None, for all data sets, is always right.

    Raises:
        InputError: if it has none. The message gives the most similar names.
    """
    if data_name is None or run_folders(data_name):
        return
    if data_folders(data_name):
        raise InputError(f"no run on {data_name!r} has started training yet")
    known = {folder.parent.name for folder in run_folders()}
    raise InputError(f"there are no runs on {data_name!r}{nearest(data_name, known)}")


def find_runs(data_name: str | None = None) -> list[RunDirectory]:
    """Open all runs, or those of one data set, sorted by name.

    Raises:
        InputError: if a run cannot be opened. The message says what to do.
    """
    return [RunDirectory.open(folder) for folder in run_folders(data_name)]
