"""Files, locks, signals, processes, devices and distributed computing.

This package depends on the machine only, not on plankton data or runs.

Reads  the environment, the hardware, and files whose paths other packages pass.
Writes files atomically (``files``), and one lock file in a run's folder (``locks``).
Imports errors, config.
"""

from typing import Any

from thesis_lib.lazy import public_name

# public name -> the module that defines it; None: the name is itself a public module
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
