"""Run one command on several processes (ranks) that torchrun has started.

Every rank runs the same code. Only rank 0 prints and writes files. What only one process may
decide or read, rank 0 decides or reads, and :func:`from_rank_0` passes the result to the others.
Without torchrun, a process is rank 0 of a world of size 1.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from thesis_lib.errors import InputError
from thesis_lib.system import processes
from thesis_lib.system.signals import Deferral, Terminated, ignore_notices

T = TypeVar("T")
PATIENCE = timedelta(days=1)  # how long the other ranks wait while rank 0 trains heads
PROBLEM = "thesis/problem"  # the store's key for the error message of a failed rank

_store: Any = None  # shared by all ranks; None in a single process
_messages: distributed.ProcessGroup | None = None  # gloo group for objects and flags on the CPU


def world_size() -> int:
    """Return the number of ranks."""
    return distributed.get_world_size() if _store is not None else 1


def rank() -> int:
    """Return the rank of this process; 0 in a single process."""
    return distributed.get_rank() if _store is not None else 0


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the process group of torchrun's ranks; do nothing in a single process.

    GPU tensors are exchanged by NCCL, CPU tensors by gloo. A rank stops when torchrun stops, even
    if torchrun was killed. After an error the process group is not destroyed, as that could wait
    forever for a rank that is gone; the process must then end with ``os._exit``.
    """
    global _store, _messages
    if not processes.under_torchrun():
        yield
        return
    processes.exit_with_parent(os.getppid())
    if "THESIS_OWNER" in os.environ:  # the notebook or command that started torchrun
        processes.exit_with_parent(int(os.environ["THESIS_OWNER"]))
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        processes.kill_when_stuck()  # NCCL can hang when another rank is gone
    store, own_rank, num_processes = next(rendezvous("env://"))
    distributed.init_process_group(
        backend,
        store=distributed.PrefixStore("ranks", store),
        rank=own_rank,
        world_size=num_processes,
    )
    _messages = distributed.new_group(backend="gloo", timeout=PATIENCE)
    _store = store
    try:
        yield
        distributed.destroy_process_group()
    finally:
        _store = _messages = None


@contextlib.contextmanager
def report_worker_errors() -> Iterator[None]:
    """Re-raise the failing rank's error on rank 0 instead of gloo's connection error.

    When a rank fails, torchrun stops all others, so rank 0 may notice the failure as a SIGTERM.

    Raises:
        InputError: if another rank has failed, with that rank's own message if it left one.
    """
    try:
        yield
    except (RuntimeError, Terminated) as error:
        if world_size() == 1 or rank():
            raise
        ignore_notices()  # torchrun's SIGTERM after a failed rank must not hide that rank's error
        problem = _problem()
        # The SIGTERM may also have interrupted the cleanup after a lost connection.
        if problem is None and any(map(is_lost_connection, _with_contexts(error))):
            problem = (
                "another process of this run was killed or stopped (out of memory?); run the same "
                "command again to resume from what was saved"
            )
        if problem is None:
            raise
        raise InputError(problem) from None


def is_lost_connection(error: BaseException) -> bool:
    """Return whether another rank cannot be reached; gloo has no exception class for this."""
    if isinstance(error, InputError):
        return False
    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()


def _with_contexts(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those during whose handling it was raised."""
    while error is not None:
        yield error
        error = error.__context__


def _problem() -> str | None:
    """Return the error message that a failed rank left in the store, or None."""
    with contextlib.suppress(RuntimeError):
        return _store.get(PROBLEM).decode() if _store.check([PROBLEM]) else None
    return None


def run_on_ranks(command: Callable[[], int]) -> int:
    """Run a command on every rank, of which only rank 0 prints; return its exit status."""
    with process_group():
        if rank():
            return _run_silently(command)
        with report_worker_errors(), contextlib.redirect_stdout(processes.Output()):
            status = command()
            wait_for_all()
        return status


def _run_silently(command: Callable[[], int]) -> int:
    """Run a command without output.

    After an error, leave its message in the store for rank 0 and exit the process.
    """
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            status = command()
            wait_for_all()
        return status
    except Exception as error:
        if is_lost_connection(error):
            os._exit(1)  # another rank has failed and reports the reason
        if not isinstance(error, InputError):
            traceback.print_exc()
        with contextlib.suppress(RuntimeError):
            source = (
                "" if isinstance(error, InputError) else f"rank {rank()}: {type(error).__name__}: "
            )
            _store.set(PROBLEM, f"{source}{error}")
        sys.stderr.flush()
        os._exit(2)  # at once, so that rank 0 gets an error wherever it waits for this rank


def from_rank_0(function: Callable[[], T]) -> T:
    """Call a function on rank 0 alone, and return its result on every rank."""
    if world_size() == 1:
        return function()
    result: list[Any] = [None if rank() else function()]
    distributed.broadcast_object_list(result, src=0, group=_messages)
    return result[0]


def on_all_ranks(condition: bool) -> bool:
    """Return whether a condition is true on every rank."""
    if world_size() == 1:
        return condition
    count = torch.tensor(int(condition))
    distributed.all_reduce(count, group=_messages)
    return int(count) == world_size()


def wait_for_all() -> None:
    """Wait until every rank has come here."""
    if world_size() > 1:
        distributed.barrier(_messages)


def batch_slice(num_images: int, num_views: int, rank: int, world_size: int) -> slice:
    """Return the slice of a batch that a rank processes.

    The slices of all ranks, in order, make up the batch; their sizes differ by at most one image.
    Batch normalisation needs at least two views per rank. If the batch is too small for that,
    every rank processes all of it.

    Args:
        num_images: images in the batch.
        num_views: views of each image.
        rank: the rank.
        world_size: number of ranks.
    """
    if num_images // world_size * num_views < 2:
        return slice(0, num_images)
    return slice(num_images * rank // world_size, num_images * (rank + 1) // world_size)


def gather_with_gradients(own: Tensor, num_rows: int, start: int) -> Tensor:
    """Gather the rows of all ranks such that gradients flow back to each rank's own rows.

    All ranks must compute the same scalar loss from the result. The gradient of a rank's own rows
    is multiplied by the world size, because DistributedDataParallel divides by it.

    Args:
        own: rows of this rank, (n, ...).
        num_rows: number of rows of all ranks together.
        start: index of this rank's first row among them.

    Returns:
        The rows of all ranks, (num_rows, ...).
    """
    return own if len(own) == num_rows else _GatherWithGradients.apply(own, num_rows, start)


class _GatherWithGradients(torch.autograd.Function):
    """All-reduce zero-padded rows: all-gather would need equally many rows on each rank."""

    @staticmethod
    def forward(context: Any, own: Tensor, num_rows: int, start: int) -> Tensor:
        context.own = slice(start, start + len(own))
        whole = own.new_zeros(num_rows, *own.shape[1:])
        whole[context.own] = own
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[context.own] * distributed.get_world_size(), None, None


def sum_over_ranks(value: Tensor) -> Tensor:
    """Return the sum of a scalar over all ranks, without gradients."""
    if world_size() > 1:
        value = value.detach().clone()
        distributed.all_reduce(value)
    return value


def should_stop(deferral: Deferral) -> bool:
    """Return whether any rank has received a signal to stop, and pass the signal to all ranks.

    This is a collective call: all ranks wait for each other here.
    """
    if world_size() == 1:
        return deferral.signal is not None
    number = torch.tensor(deferral.signal or 0)
    distributed.all_reduce(number, distributed.ReduceOp.MAX, group=_messages)
    if number:
        deferral.signal = deferral.signal or int(number)
    return bool(number)  # a signal received after the all-reduce counts at the next call


def gather_batches(
    compute: Callable[[list[list[int]]], Iterator[T]], batches: list[list[int]]
) -> Iterator[T]:
    """Yield on rank 0 the results of all batches, in order; on the other ranks nothing.

    The batches are dealt out to the ranks: batch i goes to rank i modulo the world size.

    Args:
        compute: yields the result of each of some batches.
        batches: all batches.
    """
    for done, result in enumerate(compute(batches[rank() :: world_size()])):
        if rank():
            distributed.send_object_list([result], dst=0, group=_messages)
            continue
        yield result
        for other in range(1, min(world_size(), len(batches) - done * world_size())):
            received: list[Any] = [None]
            distributed.recv_object_list(received, src=other, group=_messages)
            yield received[0]


def data_parallel(model: nn.Module) -> nn.Module:
    """Wrap a model in DistributedDataParallel, which averages the gradients of all ranks.

    All ranks start with rank 0's weights. On GPUs, synchronised batch normalisation uses the
    statistics of the whole batch. torch has no such layer for the CPU: there, each rank uses the
    statistics of its own images, and rank 0's running statistics are saved. In a single process
    the model is returned unchanged.
    """
    if world_size() == 1:
        return model
    options: dict[str, Any] = {}
    if next(model.parameters()).is_cuda:
        from timm.layers import convert_sync_batchnorm  # here, because timm takes seconds to load

        convert_sync_batchnorm(model)  # torch's own version drops the activations in timm's layers
        options["device_ids"] = [torch.cuda.current_device()]
    # With `find_unused_parameters`, gradients are summed in the same order in every step. Without
    # it, the first step after a start uses another order, and a resumed run is not reproducible.
    return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True, **options)
