"""Open the data set that a run was trained on, for the stages after pretraining."""

from collections.abc import Iterator
from contextlib import contextmanager

from thesis_lib.data.datasets import DataSet, open_dataset
from thesis_lib.data.statistics import DataStatistics, data_statistics, readable
from thesis_lib.errors import InputError
from thesis_lib.runs.artifacts import trained_fingerprint
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import sweep_partial
from thesis_lib.system.locks import locked
from thesis_lib.system.paths import relative_to_root
from thesis_lib.system.torch_errors import translate_torch_errors


@contextmanager
def run_data(run: RunDirectory, needs: tuple[str, ...]) -> Iterator[tuple[DataSet, DataStatistics]]:
    """Open the run's data set and its statistics, and lock the run while they are in use.

    First, partial files left in the run's folder by killed processes are deleted.

    Args:
        run: a trained run.
        needs: the splits that must exist.

    Yields:
        The data set (without unreadable images that are to be skipped) and its statistics.

    Raises:
        InputError: if the data have changed or cannot be read, or another process is using the
            run. PyTorch errors inside the block are translated, see
            :func:`thesis_lib.system.torch_errors.translate_torch_errors`.
    """
    dataset = open_dataset(run.config.data, needs)
    check_fingerprint(run, dataset)
    statistics = data_statistics(dataset)
    dataset = readable(dataset, statistics, run.config)
    batch = "the features of all images"
    with locked(run.path), translate_torch_errors(batch, run.config.worker_timeout):
        sweep_partial(run.path, older_than=0)
        yield dataset, statistics


def check_fingerprint(run: RunDirectory, dataset: DataSet) -> None:
    """Raise InputError if the data set's files are not those that the run was trained on."""
    trained = trained_fingerprint(run)
    if trained is not None and trained != dataset.fingerprint:
        raise InputError(
            f"the files of {relative_to_root(dataset.root)} are not those that "
            f"{run.path.name} was trained on; restore them, or start another run with --tag NAME"
        )
