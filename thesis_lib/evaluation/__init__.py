"""Evaluate a frozen backbone (notebooks 03 to 05): probing, final test, look-up table.

Every choice is made on the validation split (without one: on the training images) and saved
before any test image is read.

Reads  ``checkpoints/`` and ``metrics.csv`` of a run; train and val images, later test images.
Writes ``heads/``, ``probe.csv``, ``probe_curves.csv``, ``head.pth`` and ``selection.json`` (03);
       ``predictions.csv``, ``embedding.csv``, ``calibration.csv`` and ``test.json`` (04);
       ``table.safetensors``, ``table.json``, ``ood.csv``, ``retrieval.csv``,
       ``retrieval_predictions.csv`` and ``retrieval.json`` (05).
Imports errors, config, models, system, data, runs, training.
"""

from typing import Any

from thesis_lib.lazy import public_name

# public name -> the module that defines it; None: the name is itself a public module
HOMES = {
    "probe_checkpoints": "probing",
    "final_test": "testing",
    "retrieve": "retrieval",
    "stored_table": "retrieval",
    "classification_metrics": "metrics",
    "compare_runs": "comparison",
    "comparison": None,
    "FrozenBackbone": "features",
    "knn": None,
    "lookup_table": None,
    "metrics": None,
    "ood": None,
    "probing": None,
    "pruning": None,
    "retrieval": None,
}
__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    return public_name(__name__, HOMES, name)


def __dir__() -> list[str]:
    return __all__
