"""Files, locks, signals, processes, devices and distributed computing.

This package depends on the machine only, not on plankton data or runs.

Reads  the environment, the hardware, and files whose paths other packages pass.
Writes files atomically (``files``), and one lock file in a run's folder (``locks``).
Imports errors, config.
"""

from thesis_lib.lazy import face

# public name -> the module that defines it; None: the name is itself a public module
HOMES = {
    "device": None,
    "distributed": None,
    "files": None,
    "locks": None,
    "machine": None,
    "paths": None,
    "processes": None,
    "progress": None,
    "signals": None,
    "threads": None,
    "torch_errors": None,
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
