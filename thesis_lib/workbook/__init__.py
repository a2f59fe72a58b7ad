"""Execute the notebooks over a grid of runs: one after another, in parallel or on Slurm.

Importing this package does not load torch, so that ``thesis status`` answers at once.

Reads  ``notebooks/``, a settings file, and the state of every run.
Writes executed notebooks and their receipts into ``runs/<data>/notebooks/`` and
       ``runs/<data>/<run>/notebooks/``; Slurm's job ids and logs into ``slurm/`` beside them.
Imports errors, coercion, methods, backbones, config, system, data, runs, training.
"""

from thesis_lib.lazy import face

# public name -> the module that defines it; None: the name is itself a public module
HOMES = {
    "read_parameters": "parameters",
    "config_of": "parameters",
    "open_run": "parameters",
    "write_receipt": "receipts",
    "settings_table": "parameters",
    "as_options": "parameters",
    "read_settings": "parameters",
    "typed": "parameters",
    "status_lines": "status",
    "run_in_parallel": "parallel",
    "submit_grid": "slurm",
    "Resources": "resources",
    "grid": None,
    "plan": None,
    "receipts": None,
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
