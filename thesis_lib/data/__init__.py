"""Data sets: split, measure, check for leaks, and load as batches of views (notebook 01).

A data set is a folder ``data/<name>/{train,val,test}/<class>/<image>``. The random augmentation of
a view depends only on (seed, epoch, image, view), so batches are reproducible.

Reads  the sources that users bring, such as class folders, archives and exports; ``data/<name>/``.
Writes ``data/<name>/`` with its ``manifest.csv``; ``runs/<name>/data_statistics.json``,
       ``images.csv`` and ``image_hashes.csv``.
Imports errors, methods, config, system.
"""

from thesis_lib.lazy import face

# public name -> the module that defines it; None: the name is itself a public module
HOMES = {
    "open_dataset": "datasets",
    "datasets": None,
    "split_dataset": "splits",
    "splits": None,
    "sources": None,
    "cache": None,
    "demo": None,
    "framing": None,
    "images": None,
    "leakage": None,
    "legend": None,
    "loaders": None,
    "statistics": None,
    "transforms": None,
    "workers": None,
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
