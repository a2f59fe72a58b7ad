"""The notebooks' grid: parameters, papermill, receipts, status, several jobs, Slurm.

Loads no torch: ``thesis status`` answers at once.

Reads  ``notebooks/``, a settings file, and the state of every run.
Writes executed notebooks and their receipts into ``runs/<data>/notebooks/`` and
       ``runs/<data>/<run>/notebooks/``; job ids and logs into ``slurm/`` beside them.
"""

from typing import Any

from thesis_lib.lazy import public_name

# Each public name and the module that defines it; None: the whole module is public.
HOMES = {
    "read_parameters": "parameters",
    "open_run": "parameters",
    "write_receipt": "receipts",
    "settings_table": "parameters",
    "as_options": "parameters",
    "read_settings": "parameters",
    "status_lines": "status",
    "run_in_parallel": "parallel",
    "submit_grid": "slurm",
    "Resources": "resources",
    "grid": None,
    "plan": None,
    "receipts": None,
}
__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    return public_name(__name__, HOMES, name)


def __dir__() -> list[str]:
    return __all__
