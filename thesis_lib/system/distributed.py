"""Several processes that compute together: rank 0 leads and writes, the others help it.

torchrun starts them. Rank 0 runs a command as it would alone; the other ranks wait until it tells
them what to compute with it, and end when it does. On its own, a process is rank 0 of 1.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from thesis_lib.errors import InputError
from thesis_lib.system import processes
from thesis_lib.system.signals import Deferral, Terminated

T = TypeVar("T")
PATIENCE = timedelta(days=1)  # rank 0 may train heads while the others wait
PROBLEM = "thesis/problem"  # the key of what a rank leaves word of

_store: distributed.Store | None = None  # of the ranks; None on its own
_messages: distributed.ProcessGroup | None = None  # through which they talk, on the CPU


def world_size() -> int:
    """How many ranks compute together."""
    return distributed.get_world_size() if _store is not None else 1


def rank() -> int:
    """This process's number among them."""
    return distributed.get_rank() if _store is not None else 0


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Meet the other ranks that torchrun has started; on its own, a process has none to meet.

    Tensors of a GPU go by NCCL, those of the CPU by gloo. A rank ends with torchrun, however that
    ended. After an error the ranks do not take leave of each other, which can wait for ever on
    one that is gone: the process is to end by ``os._exit``.
    """
    global _store, _messages
    if not processes.under_torchrun():
        yield
        return
    processes.exit_with_parent(os.getppid())
    if "THESIS_OWNER" in os.environ:  # of the notebook or command that has started torchrun
        processes.exit_with_parent(int(os.environ["THESIS_OWNER"]))
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        processes.kill_when_stuck()  # as in NCCL, when another rank is gone
    store, number, count = next(rendezvous("env://"))
    distributed.init_process_group(
        backend, store=distributed.PrefixStore("ranks", store), rank=number, world_size=count
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
    """Say on rank 0 what went wrong on another rank, instead of that it cannot be reached.

    torchrun ends all ranks then, so rank 0 may hear of it by SIGTERM.

    Raises:
        InputError: for a rank that has ended, with its own problem where it could tell.
    """
    try:
        yield
    except (RuntimeError, Terminated) as error:
        if world_size() == 1 or rank():
            raise
        problem = _problem()
        if problem is None and is_lost_connection(error):
            problem = (
                "another process of this run was killed or has ended (too little memory?); the "
                "same command goes on from what is saved"
            )
        if problem is None:
            raise
        raise InputError(problem) from None


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error says that another rank cannot be reached; gloo has no class for it."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()


def _problem() -> str | None:
    """What another rank has left word of, if one has."""
    with contextlib.suppress(RuntimeError):
        return _store.get(PROBLEM).decode() if _store.check([PROBLEM]) else None
    return None


def run_on_ranks(command: Callable[[], int]) -> int:
    """Run a command on rank 0, which the other ranks help; return its exit status."""
    with process_group(), report_worker_errors():
        if rank():
            _serve_rank_0()
            return 0
        status = command()
        if world_size() > 1:
            with contextlib.suppress(RuntimeError):  # one has gone already, and all is done
                distributed.broadcast_object_list([None], src=0, group=_messages)
        return status


def _serve_rank_0() -> None:
    """Do what rank 0 tells, until all is done.

    A problem ends this process, once word of it is left for rank 0.
    """
    try:
        while True:
            told = [None]
            distributed.broadcast_object_list(told, src=0, group=_messages)
            if told[0] is None:
                return
            function, arguments = told[0]
            function(*arguments)
    except Exception as error:
        if is_lost_connection(error):
            os._exit(1)  # rank 0 has ended, or another rank, and says why
        if not isinstance(error, InputError):
            traceback.print_exc()
        with contextlib.suppress(RuntimeError):
            named = (
                "" if isinstance(error, InputError) else f"rank {rank()}: {type(error).__name__}: "
            )
            _store.set(PROBLEM, f"{named}{error}")
        sys.stderr.flush()
        os._exit(2)  # at once: now rank 0 hears of it, wherever it waits for this one


def call_on_workers(function: Callable[..., Any], *arguments: Any) -> None:
    """Have the other ranks call a function of a module, while rank 0 goes on with its own part."""
    if world_size() > 1:
        distributed.broadcast_object_list([(function, arguments)], src=0, group=_messages)


def batch_slice(images: int, views: int, rank: int, ranks: int) -> slice:
    """The images of a batch that a rank takes.

    All parts together are the batch in its order, and differ by an image at most. A batch too
    small to give each rank two views, which batch normalisation needs, is taken whole by each.
    """
    if images // ranks * views < 2:
        return slice(0, images)
    return slice(images * rank // ranks, images * (rank + 1) // ranks)


def gather_with_gradients(own: Tensor, rows: int, start: int) -> Tensor:
    """The rows (rows, ...) of all ranks, of which this one's begin at ``start``, with gradients.

    Every rank is to make the same scalar of them. Its gradient then comes back to each rank's own
    rows times the number of ranks, by which DistributedDataParallel divides.
    """
    return own if len(own) == rows else _GatherWithGradients.apply(own, rows, start)


class _GatherWithGradients(torch.autograd.Function):
    """Adds up what holds a rank's own rows and zeros elsewhere: parts may differ in size."""

    @staticmethod
    def forward(context: Any, own: Tensor, rows: int, start: int) -> Tensor:
        context.own = slice(start, start + len(own))
        whole = own.new_zeros(rows, *own.shape[1:])
        whole[context.own] = own
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[context.own] * distributed.get_world_size(), None, None


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a scalar over all ranks, without gradient."""
    if world_size() > 1:
        value = value.detach().clone()
        distributed.all_reduce(value)
    return value


def should_stop(deferral: Deferral) -> bool:
    """Whether to leave in good order: any rank has a signal to obey, and then all have it.

    All ranks wait for each other here.
    """
    if world_size() == 1:
        return deferral.signal is not None
    number = torch.tensor(deferral.signal or 0)
    distributed.all_reduce(number, distributed.ReduceOp.MAX, group=_messages)
    if number:
        deferral.signal = deferral.signal or int(number)
    return bool(number)  # a signal that has come since is for the next time


def gather_batches(own: Iterator[T], batches: int) -> Iterator[T]:
    """On rank 0: what all ranks make of batches that they take in turn, in the batches' order.

    The other ranks :func:`send_batch` what they make of theirs.

    Args:
        own: what this rank makes of its batches.
        batches: how many there are.
    """
    for done, made in enumerate(own):
        yield made
        for other in range(1, min(world_size(), batches - done * world_size())):
            received = [None]
            distributed.recv_object_list(received, src=other, group=_messages)
            yield received[0]


def send_batch(value: Any) -> None:
    """Send something to rank 0, which takes it by :func:`gather_batches`."""
    distributed.send_object_list([value], dst=0, group=_messages)


def data_parallel(model: nn.Module) -> nn.Module:
    """The model whose backward pass averages the gradients of all ranks; the same weights.

    All begin with rank 0's weights. On GPUs batch normalisation takes its statistics over the
    whole batch; torch has no such layer for the CPU, where each rank takes them over its own
    images, and rank 0's running statistics are the ones that are saved.
    """
    if world_size() == 1:
        return model
    options: dict[str, Any] = {}
    if next(model.parameters()).is_cuda:
        convert_sync_batchnorm(model)  # torch's own loses the activations that timm's layers hold
        options["device_ids"] = [torch.cuda.current_device()]
    # With `find_unused_parameters` the gradients are added up in the same order in every step;
    # otherwise the first step after a start has another one, and a resumed run other bits.
    return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True, **options)
