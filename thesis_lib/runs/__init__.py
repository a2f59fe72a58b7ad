"""A run's folder: what lies in it, who reads it, which stages are done.

Loads no torch: ``thesis status`` answers at once.

Reads  ``runs/<data>/<run>/``: ``config.json`` and the CSV and JSON files that stages write.
Writes ``config.json``, ``provenance.json`` and ``status.json`` of a run.
"""

from typing import Any

from thesis_lib.lazy import public_name

# Each public name and the module that defines it; None: the whole module is public.
HOMES = {
    "RunDirectory": "directory",
    "find_runs": "directory",
    "run_folders": "directory",
    "listed_differences": "directory",
    "artifacts": None,
    "provenance": None,
    "stages": None,
}
__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    return public_name(__name__, HOMES, name)


def __dir__() -> list[str]:
    return __all__
