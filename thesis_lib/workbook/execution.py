"""Execute one notebook with papermill, and make sure that no process of it is left."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from jupyter_core.utils import run_sync
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from thesis_lib.config import RunConfig
from thesis_lib.system.files import atomic_path
from thesis_lib.system.paths import relative_to_root, workbook_root
from thesis_lib.workbook.receipts import has_receipt, receipt_file

SECONDS_TO_END = 8.0  # for a kernel to stop: its training finishes a step and saves
SECONDS_TO_END_IN_JOB = 25.0  # Slurm kills a job 30 s after SIGTERM
FROZEN_SECONDS = 60.0  # within which a kernel must answer a heartbeat


class Kernel(AsyncKernelManager):
    """A kernel in its own process group that is killed if it stops answering heartbeats."""

    heartbeat_client: AsyncKernelClient | None = None

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel of this interpreter: another ``python3`` may come first on Jupyter's path."""
        return KernelSpec(resource_dir="", **get_kernel_dict())

    def client(self, **options: Any) -> AsyncKernelClient:  # type: ignore[override]  # its stub
        """Make the client that papermill uses; kill the kernel if its heartbeat fails."""
        client: Any = super().client(**options)
        self.heartbeat_client, heartbeat = client, client.hb_channel
        heartbeat.time_to_dead = FROZEN_SECONDS
        heartbeat.call_handlers = lambda _: self.kill()
        return client

    def kill(self) -> None:
        """Kill the kernel and all its children, also if the kernel itself has stopped already."""
        group = getattr(self.provisioner, "pgid", None)
        if group is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


@contextlib.contextmanager
def watched_kernel() -> Iterator[Kernel]:
    """Yield a kernel; at the end of the block, stop it and kill what is left of its processes."""
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
            if kernel.heartbeat_client is not None:
                kernel.heartbeat_client.stop_channels()


def execute_notebook(
    source: Path, executed: Path, parameters: dict[str, Any], config: RunConfig
) -> str | None:
    """Execute one notebook and save the executed copy if its last cell was reached.

    If it fails, what papermill has written so far is saved as ``<name>.failed.ipynb``.

    Args:
        source: path of the notebook.
        executed: path of the executed copy.
        parameters: values for its parameters cell.
        config: config of the run, which says where the receipt is.

    Returns:
        None on success, else one line that says what went wrong.
    """
    # papermill warns about each parameter that is not in the parameters cell, although RunConfig
    # accepts and checks them all. asyncio logs an error for tasks that a signal has interrupted.
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
            reason = "the notebook ended before its last cell, which writes its receipt"
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
    """Execute a notebook with papermill; return one line that says what went wrong, or None."""
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
                extra_arguments=["--IPKernelApp.log_level=50"],  # no log if stopped in a message
                km=kernel,
            )
    except PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}".split("\n")[0].rstrip(": ")
    except DeadKernelError:
        return (
            "the notebook's kernel was killed (out of memory?), exited, or did not answer for "
            f"{FROZEN_SECONDS:g} s"
        )
    except Exception as error:  # the kernel did not start, or the copy could not be written
        return f"{type(error).__name__}: {error}".split("\n")[0]
    return None
