"""Evaluate a frozen backbone (notebooks 03 to 05): probing, final test, look-up table.

Every choice is made on the validation split (without one: on the training images) and saved
before any test image is read.

Reads  ``checkpoints/`` and ``metrics.csv`` of a run; train and val images, later test images.
Writes ``heads/``, ``probe.csv``, ``probe_curves.csv``, ``head.pth`` and ``selection.json`` (03);
       ``predictions.csv``, ``embedding.csv``, ``calibration.csv``, ``confidences.csv`` and
       ``test.json`` (04);
       ``table.safetensors``, ``table.json``, ``ood.csv``, ``learning_curve.csv``,
       ``retrieval.csv``, ``retrieval_predictions.csv`` and ``retrieval.json`` (05);
       ``elsewhere/`` (``thesis test RUN --data OTHER``).
Imports errors, methods, config, heads, system, data, runs, training.
"""

from thesis_lib.lazy import face

# public name -> the module that defines it; None: the name is itself a public module
HOMES = {
    "probe_checkpoints": "probing",
    "final_test": "testing",
    "judge_elsewhere": "elsewhere",
    "retrieve": "retrieval",
    "stored_table": "retrieval",
    "classification_metrics": "statistics.metrics",
    "compare_runs": "statistics.comparison",
    "FrozenBackbone": "features",
    "knn": None,
    "lookup_table": None,
    "ood": None,
    "probing": None,
    "pruning": None,
    "retrieval": None,
    "statistics": None,
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
