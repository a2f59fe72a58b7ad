"""Hash every image of a data set: an exact hash of its pixels, and a perceptual hash."""

import hashlib
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pandas as pd
from PIL import Image

from thesis_lib.data.datasets import DataSet
from thesis_lib.data.images import read_pixels
from thesis_lib.errors import InputError
from thesis_lib.system import machine
from thesis_lib.system.files import read_json, write_csv, write_json
from thesis_lib.system.paths import data_runs_folder
from thesis_lib.system.progress import track
from thesis_lib.system.threads import map_in_threads

HASHES = ["file", "modified", "pixels", "perceptual"]


def image_hashes(dataset: DataSet) -> pd.DataFrame:
    """Return the hashes of all images that can be read.

    The hashes are stored in ``runs/<data>/image_hashes.csv``; ``image_hashes.json`` holds the
    data set's fingerprint and a hash of the table. If both still match, only images that were
    modified since or could not be read are read again; otherwise all images are.

    Returns:
        One row per image: file, modified (time in ns), pixels and perceptual (hashes, hex).
    """
    whole = dataset.whole or dataset  # the stored table also covers files that are left out
    known = _stored_hashes(whole)
    files = [file for split in whole.splits.values() for file in split.files]
    modified = {file: _modified(whole.root / file) for file in files}
    # The fingerprint contains only file sizes, and uncompressed images often have the same size.
    known = known[known["file"].map(modified) == known["modified"]]
    missing = sorted(set(files) - set(known["file"]))
    read = _hash_images(whole, missing)
    if len(read):
        known = pd.concat((known, read), ignore_index=True)
        _store_hashes(whole, known)
    return known


def _stored_hashes(dataset: DataSet) -> pd.DataFrame:
    """Return the stored table, or an empty one if it is damaged or belongs to other files."""
    table_file, receipt_file = _hash_files(dataset)
    try:
        if read_json(receipt_file) == _receipt(dataset, table_file):
            return pd.read_csv(table_file, keep_default_na=False, dtype=str)
    except (FileNotFoundError, InputError):
        pass
    return pd.DataFrame(columns=HASHES, dtype=str)


def _store_hashes(dataset: DataSet, hashes: pd.DataFrame) -> None:
    table_file, receipt_file = _hash_files(dataset)
    receipt_file.unlink(missing_ok=True)  # a crash must not leave the old receipt with a new table
    write_csv(table_file, hashes)
    write_json(receipt_file, _receipt(dataset, table_file))


def _hash_files(dataset: DataSet) -> tuple[Path, Path]:
    folder = data_runs_folder(dataset.name)
    return folder / "image_hashes.csv", folder / "image_hashes.json"


def _receipt(dataset: DataSet, table_file: Path) -> dict[str, Any]:
    """Return what the stored hashes depend on, and the hash that shows the table is undamaged."""
    return {
        "fingerprint": dataset.fingerprint,
        "imagehash": imagehash.__version__,
        "columns": HASHES,
        "sha256": hashlib.sha256(table_file.read_bytes()).hexdigest(),
    }


def _hash_images(dataset: DataSet, files: list[str]) -> pd.DataFrame:
    def read(file: str) -> tuple[str, str, str, str] | None:
        modified = _modified(dataset.root / file)
        try:
            pixels = read_pixels(dataset.root / file, dataset.crop_bottom)
        except InputError:
            return None
        perceptual = str(imagehash.phash(Image.fromarray(pixels)))
        return file, modified, _pixel_hash(pixels), perceptual

    results = map_in_threads(read, files, machine.num_cores())
    tracked = track(results, len(files), "image hashes", "image")
    rows = [row for row in tracked if row is not None]
    return pd.DataFrame(rows, columns=HASHES, dtype=str)


def _modified(path: Path) -> str:
    """Return when a file was last modified, in ns; "" for a broken link."""
    return str(path.stat().st_mtime_ns) if path.exists() else ""


def _pixel_hash(pixels: np.ndarray) -> str:
    """Return the SHA-256 of an image (h, w, 3) and its shape, as hex."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
