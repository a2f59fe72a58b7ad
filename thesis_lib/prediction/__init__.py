"""Use a finished model: classify new images, write EcoTaxa tables, export the model.

Reads  a run's ``selection.json``, ``head.pth``, checkpoint and look-up table (or an exported
       model), and image files.
Writes a table of predictions, and the folder ``export/`` of a run.
Imports errors, methods, heads, backbones, config, models, system, data, runs, training, evaluation.
"""

from thesis_lib.lazy import face

# public name -> the module that defines it; None: the name is itself a public module
HOMES = {
    "load_run_model": "finished_model",
    "load_exported_model": "finished_model",
    "find_export": "finished_model",
    "find_images": "new_images",
    "check_output": "predictions",
    "choose_limits": "predictions",
    "counted": "predictions",
    "predict_images": "predictions",
    "predictions": None,
    "write_predictions": "predictions",
    "import_hints": "ecotaxa",
    "unreadable_file": "ecotaxa",
    "write_ecotaxa": "ecotaxa",
    "export_run": "export",
    "describe_export": "export",
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
