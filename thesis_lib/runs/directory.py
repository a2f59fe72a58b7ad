"""RunDirectory: where each artefact of a run lies."""

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
    """One run's folder: ``runs/<data>/<backbone>-bs<batch>-seed<seed>[-<tag>]``.

    The names of its artefacts stand here once; ``config.json`` in it is the truth about the
    run, the folder's name a label.
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
        self.lives_file = self.path / "lives.json"
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
        self.table_file = self.path / "table.safetensors"
        self.table_choice_file = self.path / "table.json"
        self.ood_file = self.path / "ood.csv"
        self.retrieval_file = self.path / "retrieval.csv"
        self.retrieval_test_file = self.path / "retrieval.json"
        self.retrieval_predictions_file = self.path / "retrieval_predictions.csv"
        self.notebooks = self.path / "notebooks"
        self.figures = figures_folder(config.data_name) / config.run_name

    def __repr__(self) -> str:
        return f"RunDirectory({relative_to_root(self.path)})"

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Open a run by its folder.

        Raises:
            InputError: where there is no run, with the runs nearest in name.
        """
        path = path if path.exists() else workbook_root() / path
        if not (path / "config.json").is_file():
            known = [str(p.parent) for p in data_runs_folder("").glob("*/*/config.json")]
            raise InputError(
                f"{path} is no run: it holds no config.json"
                f"{nearest(str(path.absolute()), known)}; `thesis status` lists the runs"
            )
        run = cls(RunConfig.from_dict(read_json(path / "config.json")))
        if run.path.resolve() != path.resolve():
            raise InputError(
                f"{path} holds the config.json of {relative_to_root(run.path)}; "
                "rename the folder, or give the run its own tag"
            )
        return run

    @classmethod
    def find(cls, **settings: Any) -> "RunDirectory":
        """The run that these settings name, for the stages after pretraining.

        Settings that only later stages read (``probe_from``, ``head_epochs``, ...) may differ
        from the run's own and take their place; any other must be as the run was trained.

        Raises:
            InputError: where there is no such run, or it was trained with other settings.
        """
        asked = cls(RunConfig.from_dict(settings))
        if not asked.config_file.is_file():
            raise InputError(
                f"there is no run {relative_to_root(asked.path)}; train it first: notebook 02 or "
                "`thesis pretrain` (`thesis status` lists the runs)"
            )
        stored = cls.open(asked.path).config
        differing = {
            name: values
            for name, values in stored.differences(asked.config, (IDENTITY, PRETRAIN)).items()
            if name in settings
        }
        if differing:
            raise InputError(_difference_message(asked, differing))
        return cls(stored.updated(**settings))

    def check_config(self, stages: tuple[str, ...] = (IDENTITY, PRETRAIN, PROBE)) -> None:
        """Hold the settings asked for against ``config.json``, where the run has one.

        Raises:
            InputError: naming the fields that differ, and how to keep both runs; for checkpoints
                that no ``config.json`` tells of.
        """
        if not self.config_file.is_file():
            if any(self.checkpoints.glob("*.pth")):
                raise InputError(
                    f"{relative_to_root(self.checkpoints)} holds checkpoints of a run without "
                    "config.json; put that back (each checkpoint holds it as 'config'), or start "
                    "another run with --tag NAME"
                )
            return
        stored = RunConfig.from_dict(read_json(self.config_file))
        differing = stored.differences(self.config, stages)
        if differing:
            raise InputError(_difference_message(self, differing))

    def write_config(self) -> None:
        """Write ``config.json``, with the data's path as seen from the workbook's root.

        How many devices are at it is asked for each time.
        """
        data = relative_to_root(find_data(self.config.data))
        config = self.config.updated(data=data, force=False, devices=1)
        write_json(self.config_file, config.to_dict())


def listed_differences(differing: dict[str, tuple]) -> str:
    """``epochs = 3 (asked: 2), ...`` of what :meth:`RunConfig.differences` gives."""
    return ", ".join(
        f"{name} = {json.dumps(mine)} (asked: {json.dumps(asked)})"
        for name, (mine, asked) in differing.items()
    )


def _difference_message(run: RunDirectory, differing: dict[str, tuple]) -> str:
    message = (
        f"{relative_to_root(run.path)} was made with {listed_differences(differing)}; "
        "to keep both runs, give this one a name with --tag NAME (in a notebook: tag = 'NAME')"
    )
    if set(differing) <= set(RunConfig.field_names(PROBE)):
        options = " ".join(f"--{name.replace('_', '-')} ..." for name in differing)
        message += f"; to probe the same backbone anew: thesis probe {run.path.name} {options}"
    return message


def run_folders(data_name: str | None = None) -> list[Path]:
    """Folders that hold a ``config.json``, of all data sets or of one, in order of their names."""
    pattern = f"{data_name or '*'}/*/config.json"
    return [file.parent for file in sorted((workbook_root() / "runs").glob(pattern))]


def find_runs(data_name: str | None = None) -> list[RunDirectory]:
    """All runs, or those on one data set, in the order of their names.

    Raises:
        InputError: for a folder that is no sound run, with what to do.
    """
    return [RunDirectory.open(folder) for folder in run_folders(data_name)]
