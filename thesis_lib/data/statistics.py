"""Measure a data set: image sizes, unreadable files, channel mean and std, class imbalance."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from thesis_lib.config import RunConfig
from thesis_lib.data.datasets import DataSet
from thesis_lib.data.images import read_pixels
from thesis_lib.errors import InputError
from thesis_lib.system import machine
from thesis_lib.system.files import read_json, write_csv, write_json
from thesis_lib.system.paths import data_runs_folder, relative_to_root
from thesis_lib.system.progress import track
from thesis_lib.system.threads import map_in_threads


@dataclass(frozen=True)
class DataStatistics:
    """The results of one pass over all images.

    ``mean`` and ``std`` (3,) are the channel statistics over all ``pixels`` pixels of the training
    images at native size, on [0, 1]; ``images`` has one row per image, with split, class, file,
    width, height (px) and error ("" if the image can be read). All without the rows that are cut
    off the bottom.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: int
    images: pd.DataFrame

    @property
    def readable_images(self) -> pd.DataFrame:
        """Return the rows of the images that can be read."""
        return self.images[self.images["error"] == ""]

    @property
    def unreadable(self) -> pd.DataFrame:
        """Return the rows of the images that cannot be read; ``error`` is the reason."""
        return self.images[self.images["error"] != ""]


def data_statistics(dataset: DataSet) -> DataStatistics:
    """Measure a data set in one pass, or read the stored results for the same files.

    The results are stored in ``runs/<data>/data_statistics.json`` and ``images.csv``, together
    with the data set's fingerprint. Stored results are not used if the fingerprint differs or if
    an image that could not be read has become readable.
    """
    folder = data_runs_folder(dataset.name)
    summary_file, images_file = folder / "data_statistics.json", folder / "images.csv"
    if summary_file.is_file() and images_file.is_file():
        summary = read_json(summary_file)
        if summary["fingerprint"] == dataset.fingerprint:
            text = dict.fromkeys(("split", "class", "file", "error"), str)
            images = pd.read_csv(images_file, keep_default_na=False, dtype=text)
            mean, std = tuple(summary["mean"]), tuple(summary["std"])
            stored = DataStatistics(mean, std, summary["pixels"], images)
            unreadable = (dataset.root / file for file in stored.unreadable["file"])
            if not any(_can_be_read(path, dataset.crop_bottom) for path in unreadable):
                return stored

    statistics = measure(dataset)
    summary_file.unlink(missing_ok=True)  # a crash must not leave an old summary with new images
    write_csv(images_file, statistics.images)
    summary = {
        "fingerprint": dataset.fingerprint,
        "mean": statistics.mean,
        "std": statistics.std,
        "pixels": statistics.pixels,
        "unreadable": len(statistics.unreadable),
    }
    write_json(summary_file, summary)
    return statistics


def _can_be_read(path: Path, crop_bottom: int) -> bool:
    """Return whether an image can be read now, for example because it has been repaired."""
    try:
        read_pixels(path, crop_bottom)
    except InputError:
        return False
    return True


def measure(dataset: DataSet) -> DataStatistics:
    """Read every image once; measure image sizes and the channel mean and std of train/.

    The mean and std are computed from a histogram of the 256 levels, so the sums are exact.

    Raises:
        InputError: if no training image can be read.
    """
    rows, levels = [], np.zeros((3, 256), dtype=np.int64)
    files = [(name, file) for name, split in dataset.splits.items() for file in split.files]

    def read(item: tuple[str, str]) -> tuple[tuple, np.ndarray | None]:
        split, file = item
        name = file.split("/")[1]
        try:
            image = Image.fromarray(read_pixels(dataset.root / file, dataset.crop_bottom))
        except InputError as error:
            return (split, name, file, 0, 0, str(error)), None
        found = np.array(image.histogram()).reshape(3, 256) if split == "train" else None
        return (split, name, file, *image.size, ""), found

    results = map_in_threads(read, files, machine.num_cores())
    for row, found in track(results, len(files), "data statistics", "image"):
        rows.append(row)
        if found is not None:
            levels += found

    pixels = int(levels[0].sum())
    if not pixels:
        raise InputError(f"{dataset.root}/train has no image that can be read")
    level = np.arange(256)
    mean = levels @ level / pixels
    variance = (levels @ level**2) / pixels - mean**2
    # A constant channel gets a std of 1, so that normalisation does not divide by zero.
    std = np.where(variance > 0, np.sqrt(np.maximum(variance, 0)), 255)
    columns = ["split", "class", "file", "width", "height", "error"]
    return DataStatistics(
        tuple((mean / 255).tolist()),
        tuple((std / 255).tolist()),
        pixels,
        pd.DataFrame(rows, columns=columns),
    )


def readable(dataset: DataSet, statistics: DataStatistics, config: RunConfig) -> DataSet:
    """Return the data set without unreadable images, if ``config.on_bad_image`` is "skip".

    Prints how many images are skipped. The returned data set keeps its fingerprint, and its
    ``left_out(split)`` lists the skipped images.

    Raises:
        InputError: if ``on_bad_image`` is "error" and an image cannot be read; or if it is "skip"
            and a split or a class of train/ has no images left.
    """
    unreadable = statistics.unreadable
    if unreadable.empty:
        return dataset
    if config.on_bad_image == "error":
        more = f" (and {len(unreadable) - 1} more: notebook 01 lists them)"
        raise InputError(
            unreadable["error"].iloc[0]
            + (more if len(unreadable) > 1 else "")
            + ", or skip unreadable images with --on-bad-image skip"
        )
    kept = dataset.without(unreadable["file"])
    counts = kept.counts()
    for name, split in dataset.splits.items():
        if len(split) and not counts[name].any():
            raise InputError(f"{dataset.root / name} has no image that can be read")
    empty = counts.index[counts["train"] == 0]
    if len(empty):
        listed = ", ".join(map(repr, empty))
        raise InputError(
            f"{dataset.root / 'train'} has classes with no image that can be read: {listed}"
        )
    lost = {name: len(kept.left_out(name)) for name in kept.splits}
    images = relative_to_root(data_runs_folder(dataset.name) / "images.csv")
    print(
        f"skipped {len(unreadable)} of {len(statistics.images)} images that cannot be read "
        f"({', '.join(f'{n} in {name}/' for name, n in lost.items() if n)}): listed in {images}",
        flush=True,
    )
    return kept


def imbalance(counts: np.ndarray) -> dict[str, float]:
    """Measure class imbalance by Gini coefficient, imbalance ratio and Shannon entropy.

    Args:
        counts: (num_classes,) number of images per class.

    Returns:
        gini: 0 if all classes are equally large, near 1 if one class has almost all images;
        imbalance_ratio: largest class / smallest class (inf if a class is empty); entropy: in
        bits; evenness: entropy / log2(num_classes), which is 1 if all classes are equally large.
    """
    ordered = np.sort(np.asarray(counts, dtype=float))
    n, total = len(ordered), ordered.sum()
    gini = 2 * (np.arange(1, n + 1) @ ordered) / (n * total) - (n + 1) / n
    share = ordered[ordered > 0] / total
    entropy = float(-(share * np.log2(share)).sum())
    smallest = ordered[0]
    return {
        "gini": float(gini),
        "imbalance_ratio": float(ordered[-1] / smallest) if smallest else float("inf"),
        "entropy": entropy,
        "evenness": entropy / float(np.log2(n)) if n > 1 else 1.0,
    }


def class_imbalance(counts: pd.DataFrame) -> pd.DataFrame:
    """Apply :func:`imbalance` to each split; return one row per split."""
    rows = [{"split": split, **imbalance(counts[split])} for split in counts.columns]
    return pd.DataFrame(rows)
