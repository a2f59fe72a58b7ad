"""Data sets: from images as they come to batches of views (notebook 01).

A data set is ``data/<name>/{train,val,test}/<class>/<image>``. Splits are made here, measured,
checked for leaks, and read as batches whose random choices follow from (seed, epoch, image, view).

Reads  class folders, archives and manifests; ``data/<name>/``.
Writes ``data/<name>/`` with its ``manifest.csv``; ``runs/<name>/data_statistics.json``,
       ``images.csv``, ``image_hashes.csv`` and ``decoded/``.
"""

from typing import Any

from thesis_lib.lazy import public_name

# Each public name and the module that defines it; None: the whole module is public.
HOMES = {
    "DataSet": "datasets",
    "open_dataset": "datasets",
    "datasets": None,
    "read_pixels": "images",
    "split_dataset": "splits",
    "split_by_manifest": "manifests",
    "describe_groups": "grouped_split",
    "unpacked": "archives",
    "cache": None,
    "demo": None,
    "images": None,
    "leakage": None,
    "loaders": None,
    "statistics": None,
    "transforms": None,
}
__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    return public_name(__name__, HOMES, name)


def __dir__() -> list[str]:
    return __all__
