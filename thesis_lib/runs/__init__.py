"""The folder of a run: its files, how to read them, and which stages are done.

Importing this package does not load torch, so that ``thesis status`` answers at once.

Reads  ``runs/<data>/<run>/``: ``config.json`` and the CSV and JSON files that stages write.
Writes ``config.json``, ``provenance.json`` and ``status.json`` in the same folder.
Imports errors, config, system.
"""

from typing import Any

from thesis_lib.lazy import public_name

# public name -> the module that defines it; None: the name is itself a public module
HOMES = {
    "RunDirectory": "directory",
    "check_has_runs": "directory",
    "find_runs": "directory",
    "run_folders": "directory",
    "listed_differences": "directory",
    "free_space": "cleaning",
    "artifacts": None,
    "plateau": None,
    "provenance": None,
    "stages": None,
}
__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    return public_name(__name__, HOMES, name)


def __dir__() -> list[str]:
    return __all__
