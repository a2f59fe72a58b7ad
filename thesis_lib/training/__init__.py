"""Pretrain a backbone (notebook 02), resume a stopped run, import SupContrast checkpoints.

The loop over the epochs is in ``pretraining``, over the steps in ``engine``; ``run_files`` decides
when checkpoints are written, and ``checkpoints`` writes them. ``initial_weights`` loads pretrained
weights. For several GPUs, ``launcher`` starts one process for each.

Reads  ``data/<name>/train/`` and the channel statistics.
Writes ``config.json``, ``metrics.csv``, ``tensorboard/`` and ``checkpoints/`` in the run folder.
Imports errors, methods, ranges, heads, losses, backbones, config, system, data, runs.
"""

from thesis_lib.lazy import face

# public name -> the module that defines it; None: the name is itself a public module
HOMES = {
    "pretrain": "pretraining",
    "check_run": "pretraining",
    "create_model": "pretraining",
    "estimates": None,
    "view_of_weights": "initial_weights",
    "run_under_torchrun": "launcher",
    "Stage": "stage",
    "run_stage": "stage",
    "open_stage": "stage",
    "TrainState": "state",
    "import_checkpoints": "supcontrast_import",
    "describe_import": "supcontrast_import",
    "checkpoints": None,
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
