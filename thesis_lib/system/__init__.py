"""What the machine gives: files, locks, signals, processes, devices, several ranks.

Knows nothing of plankton or of runs.

Reads  the environment, the hardware, and files that other rooms name.
Writes files whole or not at all (``files``), and one lock file in a run's folder (``locks``).
"""

from typing import Any

from thesis_lib.lazy import public_name

# Each public name and the module that defines it; None: the whole module is public.
HOMES = {
    "device": None,
    "distributed": None,
    "files": None,
    "locks": None,
    "paths": None,
    "processes": None,
    "progress": None,
    "signals": None,
    "torch_errors": None,
}
__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    return public_name(__name__, HOMES, name)


def __dir__() -> list[str]:
    return __all__
