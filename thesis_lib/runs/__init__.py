"""The folder of a run: its files, how to read them, and which stages are done.

Importing this package does not load torch, so that ``thesis status`` answers at once.

Reads  ``runs/<data>/<run>/``: ``config.json`` and the CSV and JSON files that stages write.
Writes ``config.json``, ``provenance.json`` and ``status.json`` in the same folder.
Imports errors, methods, config, system.
"""

from thesis_lib.lazy import face

# public name -> the module that defines it; None: the name is itself a public module
HOMES = {
    "RunDirectory": "directory",
    "check_has_runs": "directory",
    "find_runs": "directory",
    "data_folders": "directory",
    "run_folders": "directory",
    "listed_differences": "directory",
    "free_space": "cleaning",
    "artifacts": None,
    "plateau": None,
    "provenance": None,
    "stages": None,
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
