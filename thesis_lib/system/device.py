"""The device that computes, and its memory."""

import sys

import psutil
import torch

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.system import processes


def choose_device(config: RunConfig) -> torch.device:
    """The device asked for; for ``auto`` a CUDA GPU, else Apple's, else the CPU.

    Raises:
        InputError: for a device that this machine lacks, or more processes than it has GPUs.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    kind = config.device
    if kind == "auto":
        kind = next(name for name, is_there in there.items() if is_there)
    if not there[kind]:
        raise InputError(f"device is {kind!r}, which torch does not find here; use auto")
    ranks = processes.local_world_size() if processes.under_torchrun() else config.devices
    gpus = {"cuda": torch.cuda.device_count(), "mps": 1}
    if ranks > gpus.get(kind, ranks):
        raise InputError(
            f"{ranks} processes are to have a GPU each, and torch finds {gpus[kind]} here; fewer "
            "--devices (of torchrun: --nproc-per-node), or --device cpu"
        )
    return torch.device(kind)


def choose_precision(config: RunConfig, device: torch.device) -> torch.dtype:
    """What pretraining computes in: float32, or bfloat16 under autocast.

    For ``auto`` bfloat16 on a GPU that computes in it, else float32.
    """
    if config.precision == "auto":
        has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_it else torch.float32
    return getattr(torch, config.precision)


def precision_name(config: RunConfig) -> str:
    """:func:`choose_precision` on the run's device, as ``config.precision`` spells it."""
    return str(choose_precision(config, choose_device(config))).removeprefix("torch.")


def peak_memory_mib(device: torch.device) -> int:
    """Peak memory so far, MiB: reserved on the GPU, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) // 2**20
    used = psutil.Process().memory_info()
    if hasattr(used, "peak_wset"):  # Windows
        return used.peak_wset // 2**20
    import resource  # Unix alone

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def total_memory_mib(device: torch.device) -> int:
    """Memory of the GPU, else of the machine, MiB."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 2**20
    return psutil.virtual_memory().total // 2**20
