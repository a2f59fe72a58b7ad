"""Choose the device and the precision of a run, and measure memory."""

import re
import sys
from pathlib import Path

import psutil
import torch

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.system import machine, processes


def choose_device(config: RunConfig) -> torch.device:
    """Return the configured device; for ``auto``, a CUDA GPU, else Apple's GPU, else the CPU.

    Raises:
        InputError: if this machine does not have the device, or has fewer GPUs than processes.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    kind = config.device
    if kind == "auto":
        kind = next(name for name, is_available in available.items() if is_available)
    if not available[kind]:
        raise InputError(f"device is {kind!r}, but torch finds no such device here; use auto")
    under_torchrun = processes.under_torchrun()
    num_processes = processes.local_world_size() if under_torchrun else config.devices
    num_gpus = {"cuda": torch.cuda.device_count(), "mps": 1}
    if num_processes > num_gpus.get(kind, num_processes):
        raise InputError(
            f"{num_processes} processes need a GPU each, but torch finds {num_gpus[kind]} here; "
            "use fewer --devices (with torchrun: --nproc-per-node) or --device cpu"
        )
    return torch.device(kind)


def choose_precision(config: RunConfig, device: torch.device) -> torch.dtype:
    """Return the precision of pretraining: float32, or bfloat16 for autocast.

    For ``auto``, bfloat16 on a GPU that supports it in hardware, else float32.
    """
    if config.precision == "auto":
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
        return torch.bfloat16 if has_bfloat16 else torch.float32
    return getattr(torch, config.precision)


def precision_name(config: RunConfig) -> str:
    """Return the precision on the run's device, spelled as in ``config.precision``."""
    return str(choose_precision(config, choose_device(config))).removeprefix("torch.")


def peak_memory_mib(device: torch.device) -> int:
    """Return the peak memory so far, MiB: reserved on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) // 2**20
    used = psutil.Process().memory_info()
    if hasattr(used, "peak_wset"):  # Windows
        return used.peak_wset // 2**20
    # Linux's ru_maxrss starts from that of the program that started this one; VmHWM does not.
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(found[1]) // 2**10
    import resource  # only on Unix

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def total_memory_mib(device: torch.device) -> int:
    """Return the total memory of the GPU, or for other devices what this process may use, MiB."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 2**20
    return machine.total_memory() // 2**20
