"""Open a stage of a run: its data set, its lock and its record, for all ranks that work on it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from thesis_lib.data.cache import Images, open_images
from thesis_lib.data.datasets import DataSet, open_dataset
from thesis_lib.data.statistics import DataStatistics, data_statistics, readable
from thesis_lib.runs.artifacts import check_trained_on
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.provenance import recorded
from thesis_lib.runs.stages import is_done
from thesis_lib.system import distributed
from thesis_lib.system.files import sweep_partial
from thesis_lib.system.locks import locked
from thesis_lib.system.paths import data_runs_folder, figures_folder
from thesis_lib.system.torch_errors import translate_torch_errors
from thesis_lib.training.launcher import run_under_torchrun

# The splits that must exist and contain images.
NEEDS = {
    "pretrain": ("train",),
    "probe": ("train", "val"),
    "test": ("train", "test"),
    "retrieve": ("train", "test"),
}
FEATURES = "the features of all images"  # what a stage was computing when memory ran out


@dataclass(frozen=True)
class Stage:
    """What a stage works on: the run, its data set and the statistics of the data set.

    Images that are to be skipped because they cannot be read are left out of ``dataset``.
    """

    run: RunDirectory
    dataset: DataSet
    statistics: DataStatistics

    @property
    def mean(self) -> Sequence[float]:
        """Return the channel means for normalisation: the run's setting, or measured."""
        return self.run.config.mean or self.statistics.mean

    @property
    def std(self) -> Sequence[float]:
        """Return the channel standard deviations for normalisation."""
        return self.run.config.std or self.statistics.std

    def images(self, split: str) -> Images:
        """Open the images of a split, cached as the run's settings say."""
        return open_images(self.dataset, split, self.statistics, self.run.config)[0]


def run_stage(name: str, run: RunDirectory, work: Callable[[Stage], None]) -> None:
    """Do the work of a stage unless it is done; with several devices, on as many ranks.

    Args:
        name: one of :data:`thesis_lib.runs.stages.STAGES`.
        run: the run that the stage belongs to.
        work: does the stage. Every rank calls it; rank 0 alone writes files.

    Raises:
        InputError: see :func:`open_stage`.
    """
    force = run.config.force and name == "pretrain"
    done = distributed.from_rank_0(lambda: is_done(run, name) and not force)
    if done or run_under_torchrun(name, run):
        return
    with open_stage(name, run, NEEDS[name]) as stage:
        work(stage)


@contextlib.contextmanager
def open_stage(name: str, run: RunDirectory, needs: tuple[str, ...]) -> Iterator[Stage]:
    """Open the run's data set, lock the run and record the stage for the block.

    First, partial files left by killed processes are deleted. At the end of the block, every rank
    waits for the others.

    Args:
        name: a key of :data:`thesis_lib.runs.stages.OUTPUTS`.
        run: the run that the stage belongs to.
        needs: the splits that must exist.

    Raises:
        InputError: if the data have changed or cannot be read, another process is using the run,
            or another rank fails; also for PyTorch's errors inside the block, see
            :func:`thesis_lib.system.torch_errors.translate_torch_errors`.
    """
    config = run.config
    dataset = open_dataset(config.data, needs, config.crop_bottom)
    if name != "pretrain" or not config.force:
        check_trained_on(run, config.data, dataset.fingerprint)
    statistics = distributed.from_rank_0(lambda: data_statistics(dataset))
    dataset = readable(dataset, statistics, config)
    batch = f"batch_size {config.batch_size}" if name == "pretrain" else FEATURES
    with contextlib.ExitStack() as stack:
        if distributed.rank() == 0:
            stack.enter_context(locked(run.path))
            sweep_partial(run.path, older_than=0)
            for folder in (data_runs_folder(dataset.name), figures_folder(dataset.name)):
                sweep_partial(folder)
            stack.enter_context(recorded(run, name))
        stack.enter_context(translate_torch_errors(batch, config.worker_timeout))
        stack.enter_context(distributed.report_worker_errors())
        yield Stage(run, dataset, statistics)
        distributed.wait_for_all()
