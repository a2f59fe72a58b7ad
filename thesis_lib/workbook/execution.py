"""One notebook by papermill, in a kernel that is watched and that nothing survives of."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import papermill
from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from thesis_lib.config import RunConfig
from thesis_lib.system.files import atomic_path
from thesis_lib.system.paths import relative_to_root, workbook_root
from thesis_lib.workbook.receipts import has_receipt, receipt_file

SECONDS_TO_END = 8.0  # for a kernel that is told to stop: its training finishes a step and saves
SECONDS_TO_END_IN_JOB = 25.0  # Slurm kills 30 s after it has told a job to stop
FROZEN_SECONDS = 60.0  # that a kernel may take to answer its heartbeat


class Kernel(AsyncKernelManager):
    """A kernel in a process group of its own, killed when it no longer answers."""

    talks_through: AsyncKernelClient | None = None

    def client(self, **options: Any) -> AsyncKernelClient:
        """Make the client that papermill talks through; unlike papermill, heed its heartbeat."""
        self.talks_through = super().client(**options)
        heartbeat = self.talks_through.hb_channel
        heartbeat.time_to_dead = FROZEN_SECONDS
        heartbeat.call_handlers = lambda _: self.kill()
        return self.talks_through

    def kill(self) -> None:
        """Kill the kernel and its children, also those that have outlived it."""
        if self.provisioner is not None and self.provisioner.pgid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.provisioner.pgid, signal.SIGKILL)


@contextlib.contextmanager
def watched_kernel() -> Iterator[Kernel]:
    """A kernel that is told to stop at the end, and of which no process is left after it."""
    seconds = SECONDS_TO_END_IN_JOB if "SLURM_JOB_ID" in os.environ else SECONDS_TO_END
    kernel = Kernel(kernel_name="python3", shutdown_wait_time=seconds)
    try:
        yield kernel
    finally:
        try:
            if kernel.has_kernel:
                run_sync(kernel.shutdown_kernel)()
        finally:
            kernel.kill()
            if kernel.talks_through is not None:
                kernel.talks_through.stop_channels()


def execute_notebook(
    source: Path, executed: Path, parameters: dict[str, Any], config: RunConfig
) -> str | None:
    """Execute one notebook; its copy appears only if it has reached its last cell.

    A notebook that has not leaves ``<name>.failed.ipynb``, where papermill has written one.

    Args:
        source: the notebook.
        executed: where the executed copy goes.
        parameters: for its parameters cell.
        config: of its run, for its receipt.

    Returns:
        None, or what went wrong in one line.
    """
    # papermill warns of each setting that the parameters cell does not show, though any may be
    # passed: RunConfig checks the names. asyncio tells of tasks that a signal has cut short.
    for name in ("papermill", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    executed.parent.mkdir(parents=True, exist_ok=True)
    partial = executed.with_name(f".{executed.stem}.{os.getpid()}.partial.ipynb")
    failed = executed.with_name(f"{executed.stem}.failed.ipynb")
    for file in (executed, receipt_file(source.stem, config)):
        file.unlink(missing_ok=True)
    try:
        reason = _run(source, partial, parameters)
        if reason is None and not has_receipt(source.stem, config):
            reason = "the notebook ended before its last cell, which confirms that all was done"
        if reason is None:
            failed.unlink(missing_ok=True)
            with atomic_path(executed) as synced:
                os.replace(partial, synced)
            return None
        if not partial.is_file():
            return reason
        os.replace(partial, failed)
        return f"{reason} (see {relative_to_root(failed)})"
    finally:
        partial.unlink(missing_ok=True)


def _run(source: Path, output: Path, parameters: dict[str, Any]) -> str | None:
    """Let papermill execute a notebook; return what it says went wrong."""
    try:
        with watched_kernel() as kernel:
            papermill.execute_notebook(
                source,
                output,
                parameters,
                kernel_name="python3",
                cwd=workbook_root(),
                progress_bar=False,
                stdout_file=sys.stdout,
                extra_arguments=["--IPKernelApp.log_level=50"],  # it may end amid a message
                km=kernel,
            )
    except PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}".split("\n")[0].rstrip(": ")
    except DeadKernelError:
        return (
            "the notebook's kernel was killed (too little memory?), left by itself, or did not "
            f"answer for {FROZEN_SECONDS:g} s"
        )
    except Exception as error:  # it did not start, or the copy could not be written
        return f"{type(error).__name__}: {error}".split("\n")[0]
    return None
