"""Processes that load batches: their number, their signals, and their errors."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.system import machine, processes
from thesis_lib.system.signals import NOTICES

SHARED_MEMORY = Path("/dev/shm")
MORE_SHARED_MEMORY = "in Docker, start the container with --shm-size=2g"
BATCHES_AHEAD = 2  # loaded by each worker, DataLoader's default


class Guarded(Dataset):
    """Return an InputError in place of a batch, because torch would wrap it in a traceback."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, keys: list[Any]) -> Any:
        try:
            batch = self.dataset[keys]
        except InputError as error:
            return error
        try:
            for tensor in _tensors(batch):
                tensor.share_memory_()  # torch would do so in a thread that hides its errors
        except RuntimeError as error:
            reason = str(error).split("\n")[0]
            return InputError(f"{SHARED_MEMORY} is full ({reason}); {MORE_SHARED_MEMORY}")
        return batch


def _tensors(batch: Any) -> Iterator[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, tuple):
        for value in batch:
            yield from _tensors(value)


def init_worker(worker: int) -> None:
    """Let a worker end with its parent, and leave signals to the parent."""
    # If the parent is killed, torch's workers survive for some seconds and keep its connections
    # to the other ranks open, so these would wait.
    processes.exit_with_parent(os.getppid(), seconds=0)
    # A cluster's signals and Ctrl-C reach every process. Workers ignore them, because the parent
    # needs the workers to finish its step and stops them afterwards.
    for number in (*NOTICES, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def worker_count(config: RunConfig, device: torch.device, batch_bytes: int) -> int:
    """Return the number of workers: ``config.workers`` if set, otherwise chosen by device.

    With a GPU, it is the number of cores, shared among the ranks on this machine, and at most 8.
    On the CPU it is 0, because the model itself needs the cores. It is lower, with a printed line,
    if the batches that workers load ahead would not fit into shared memory.

    Args:
        config: the run's settings.
        device: the device of the run.
        batch_bytes: size of a batch of views.
    """
    wanted = config.workers
    if wanted is None:
        cores = machine.num_cores(processes.local_world_size())
        wanted = 0 if device.type == "cpu" else min(cores, 8)
    if not wanted or not SHARED_MEMORY.is_dir():  # not on macOS and Windows
        return wanted
    free = shutil.disk_usage(SHARED_MEMORY).free // processes.local_world_size()
    fits = int(free // (BATCHES_AHEAD * batch_bytes))
    if fits < wanted and processes.is_main_process():
        print(
            f"{fits} loading workers instead of {wanted}: {SHARED_MEMORY} has {free / 2**20:.0f} "
            f"MiB free, and each needs {BATCHES_AHEAD * batch_bytes / 2**20:.0f} MiB; "
            f"{MORE_SHARED_MEMORY}",
            flush=True,
        )
    return min(wanted, fits)
