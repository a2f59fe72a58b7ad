"""What a process may use: its place among torchrun's ranks, and its cores; read without torch."""

import os

# Read when torch is imported: each rank would warn that a network may do without a setting that
# keeps its bits the same.
QUIET = ("TORCH_CPP_LOG_LEVEL", "ERROR")


def started() -> bool:
    """Whether this process is one of several ranks."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


def speaks() -> bool:
    """Whether this process prints: rank 0, or one on its own."""
    return not started() or os.environ["RANK"] == "0"


def ranks_here() -> int:
    """How many ranks part this machine's cores, memory and GPUs."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if started() else 1


def cores(among: int = 1) -> int:
    """How many cores this process may use, or each of so many that part them."""
    all_ = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, all_ // among)
