"""Cores and memory that this process may use, which can be less than the machine has.

A container or a Slurm step limits them by a control group (cgroup, version 1 or 2), ``taskset`` by
the affinity of the process.
"""

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
# version of cgroup -> names of the files with limit and use, and the key of the file cache, which
# counts as used but is given up when memory is needed
MEMORY_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def num_cores(num_processes: int = 1) -> int:
    """Return how many cores each of ``num_processes`` may use if they share those of this one."""
    from joblib import cpu_count  # reads affinity and CPU quota; late, as it is slow to import

    return max(1, cpu_count() // num_processes)


def free_memory() -> int:
    """Return how many bytes of memory this process may still allocate."""
    free = psutil.virtual_memory().available
    return max(0, min([free, *(limit - used for limit, used in _memory_limits())]))


def total_memory() -> int:
    """Return how many bytes of memory all processes like this one may use together."""
    total = psutil.virtual_memory().total
    return min([total, *(limit for limit, _ in _memory_limits())])


def _memory_limits() -> list[tuple[int, int]]:
    """Return limit and use, in bytes, of this process's control group and of those above it."""
    found = []
    for version, folder in _own_cgroups():
        names = MEMORY_FILES[version]
        for place in (folder, *folder.parents):
            if not place.is_relative_to(CGROUP):
                break
            limit, used = (_number(place / name) for name in names[:2])
            if limit is not None and used is not None:
                found.append((limit, used - _file_cache(place / "memory.stat", names[2])))
    return found


def _own_cgroups() -> list[tuple[int, Path]]:
    """Return version and folder of each control group of this process that limits memory."""
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return []
    found = []
    for line in lines:  # such as "0::/user.slice" (version 2) or "4:memory:/docker/1a2b"
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found.append((2, CGROUP / path.lstrip("/")))
        elif "memory" in controllers.split(","):
            found.append((1, CGROUP / "memory" / path.lstrip("/")))
    return found


def _number(file: Path) -> int | None:
    """Read a number; None if there is no such file or it says "max", for no limit."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _file_cache(file: Path, key: str) -> int:
    try:
        rows = (line.split() for line in file.read_text().splitlines())
        return next((int(value) for name, value in rows if name == key), 0)
    except (OSError, ValueError):
        return 0
