"""Write and check receipts, which confirm that a notebook reached its last cell, on which inputs.

They are needed because papermill reports a notebook as completed even if its kernel was killed or
it stopped with ``sys.exit``.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from thesis_lib.config import RunConfig, data_set_name
from thesis_lib.errors import InputError
from thesis_lib.runs.directory import RunDirectory, find_runs
from thesis_lib.runs.stages import inputs_digest, is_done
from thesis_lib.system.files import file_digest, read_json, write_json
from thesis_lib.system.paths import data_runs_folder, relative_to_root

# Notebooks of a run -> the stage whose outputs they show. Other notebooks belong to a data set.
STAGE_OF = {
    "02_supcon_pretraining": "pretrain",
    "03_checkpoint_probing": "probe",
    "04_final_test": "test",
    "05_cosine_retrieval": "retrieve",
}


def write_receipt(notebook: str, config: RunConfig) -> None:
    """Confirm that a notebook has reached its end; its last cell calls this.

    Writes ``notebooks/<notebook>.receipt.json`` of the run or the data set.

    Args:
        notebook: name of the notebook, such as ``02_supcon_pretraining``.
        config: config of the run; for notebooks 01 and 06, their parameters.
    """
    file = receipt_file(notebook, config)
    write_json(file, {"notebook": notebook, "inputs": _inputs_digest(notebook, config)})
    print(f"notebook {notebook[:2]} is complete: {relative_to_root(file)}")


def receipt_file(notebook: str, config: RunConfig) -> Path:
    """Return the path of a notebook's receipt."""
    is_per_run = notebook in STAGE_OF
    folder = RunDirectory(config).path if is_per_run else data_runs_folder(config.data_name)
    return folder / "notebooks" / f"{notebook}.receipt.json"


def has_receipt(notebook: str, config: RunConfig) -> bool:
    """Return whether a notebook reached its end when it was last executed."""
    return receipt_file(notebook, config).is_file()


def receipt_holds(notebook: str, config: RunConfig) -> bool:
    """Return whether a notebook reached its end on the current inputs."""
    stage = STAGE_OF.get(notebook)
    try:
        if not has_receipt(notebook, config):
            return False
        if stage is not None and not is_done(RunDirectory(config), stage):
            return False
        receipt = read_json(receipt_file(notebook, config))
        return receipt["inputs"] == _inputs_digest(notebook, config)
    except InputError:  # a file cannot be read; executing the notebook will show which
        return False


def _inputs_digest(notebook: str, config: RunConfig) -> str:
    """Return the hash of a notebook's inputs: settings, data and outputs of earlier stages."""
    text = json.dumps(_inputs(notebook, config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _inputs(notebook: str, config: RunConfig) -> Any:
    from thesis_lib.data.datasets import open_dataset  # late: slow to import

    run = RunDirectory(config)
    match notebook:
        case "01_data_stats":
            return open_dataset(config.data, crop_bottom=config.crop_bottom).fingerprint
        case "05_cosine_retrieval":  # compares the look-up table with the linear head
            return [inputs_digest(run, "retrieve"), file_digest(run.predictions_file)]
        case "06_thesis_tables":
            names = (config.data_name, *map(data_set_name, config.other_splits))
            runs = [run for name in names for run in find_runs(name)]
            return {"/".join(run.path.parts[-2:]): _results(run) for run in runs}
    return inputs_digest(run, STAGE_OF[notebook])


def _results(run: RunDirectory) -> list[str | None]:
    """Return the hashes of a run's small files that tables are made from."""
    files = (
        *(run.config_file, run.metrics_file, run.probe_file, run.selection_file, run.test_file),
        run.retrieval_test_file,
    )
    return [file_digest(file) for file in files]
