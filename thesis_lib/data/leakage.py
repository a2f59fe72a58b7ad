"""Images of val and test that an earlier part shows as well, and the metrics without them.

An image leaks where an earlier part holds its counterpart: val looks at train, test at train and
val. In what they agree is one of ``KINDS``. Perceptual hashes are ImageHash's ``phash``: 64 bits,
half of them set in nearly every image, so that two differ in an even number of bits. All images
of a single colour are alike by them: they show the same, nothing.
"""

import numpy as np
import pandas as pd

from thesis_lib.data.datasets import SPLITS, DataSet
from thesis_lib.data.grouped_split import group_of
from thesis_lib.data.image_hashes import image_hashes
from thesis_lib.data.images import read_pixels
from thesis_lib.errors import InputError

KINDS = ("identical pixels", "near-duplicate", "same group", "same name")
# Where files are counted anew in each class or part (0001.png), all of them share names.
TELLS_LITTLE = "same name"
ANY = "any but same name"
BLOCK = 2**20  # pairs of hashes held against each other at once: some 30 MB
COUNTERPART = ["other_split", "other_file", "other_class", "distance", "counterparts"]
LEAKS = ["kind", "split", "file", "class", *COUNTERPART]


def find_leaks(dataset: DataSet, distance: int, group_by: str) -> pd.DataFrame:
    """Find the images of val and test that have a counterpart in an earlier part.

    The first call reads every image, later ones ``runs/<data>/image_hashes.csv``. Images that
    cannot be read are passed over: the statistics list them.

    Args:
        dataset: with any of val and test, or neither.
        distance: bits in which the perceptual hashes of near-duplicates differ at most.
        group_by: a regular expression, searched for in each file's path below its class: its
            first group, or all that it matches where it has none, names the file's group. A
            file without a match, or with an empty one, is of no group. "" looks for none.

    Returns:
        A row a kind and image: kind (categorical, over the kinds that were looked for), split,
        file, class; other_split, other_file and other_class of the nearest counterpart, the
        first in train before val among equally near ones; distance (bits, of near-duplicates
        alone); counterparts (how many there are). A pair of identical pixels is no
        near-duplicate as well.

    Raises:
        InputError: for a pattern that finds a group in no file.
    """
    images = _image_table(dataset, group_by)
    kinds = [kind for kind in KINDS if kind != "same group" or group_by]
    found = []
    for parts_before in (1, 2):
        ours = images[images["split"] == SPLITS[parts_before]]
        earlier = images[images["split"].isin(SPLITS[:parts_before])]
        counterparts = {
            "identical pixels": _with_equal(ours, earlier, "pixels"),
            "near-duplicate": _near_duplicates(ours, earlier, distance),
            "same group": _with_equal(ours, earlier, "group"),
            "same name": _with_equal(ours, earlier, "name"),
        }
        found += [counterparts[kind].assign(kind=kind) for kind in kinds]
    leaks = pd.concat(found, ignore_index=True)
    leaks["kind"] = pd.Categorical(leaks["kind"], kinds)
    return leaks.sort_values("kind", kind="stable", ignore_index=True)[LEAKS]


def _image_table(dataset: DataSet, group_by: str) -> pd.DataFrame:
    """split, file, class, name, group (None for none), pixels, perceptual: a row an image."""
    files = [file for split in SPLITS for file in split_files_of(dataset, split)]
    groups = _groups(files, group_by)  # first, since a bad pattern is not to wait for all images
    parts = [file.split("/") for file in files]
    images = pd.DataFrame(
        {
            "split": [part[0] for part in parts],
            "file": files,
            "class": [part[1] for part in parts],
            "name": [part[-1] for part in parts],
            "group": groups,
        }
    )
    images = images.merge(image_hashes(dataset), on="file")
    images["perceptual"] = np.array([int(bits, 16) for bits in images["perceptual"]], np.uint64)
    return images


def split_files_of(dataset: DataSet, split: str) -> list[str]:
    """All files of a split, none where the data set has no such split."""
    return dataset.splits[split].files if split in dataset.splits else []


def _groups(files: list[str], group_by: str) -> list[str | None]:
    """Each file's group by a pattern, None for none.

    Raises:
        InputError: where no file has one.
    """
    if not group_by:
        return [None] * len(files)
    below = [file.split("/", 2)[2] for file in files]
    groups = [group_of(group_by, file) for file in below]
    if not any(groups):
        raise InputError(
            f"group_by {group_by!r} finds a group in no file; one of them is {below[0]!r} "
            "below its class"
        )
    return groups


def _with_equal(ours: pd.DataFrame, earlier: pd.DataFrame, column: str) -> pd.DataFrame:
    """The images of ``ours`` whose value in a column some of ``earlier`` have as well."""
    ours, earlier = ours.dropna(subset=column), earlier.dropna(subset=column)
    first = earlier.drop_duplicates(column).set_index(column)
    ours = ours[ours[column].isin(first.index)]
    counts = earlier[column].value_counts()
    others = first.loc[ours[column]].reset_index()
    return _leaking(ours, others, pd.NA, counts.loc[ours[column]].to_numpy())


def _near_duplicates(ours: pd.DataFrame, earlier: pd.DataFrame, distance: int) -> pd.DataFrame:
    """The images of ``ours`` with near-duplicates in ``earlier`` that are not the same pixels."""
    others = earlier.drop_duplicates("pixels").reset_index(drop=True)  # the first of each
    weights = others["pixels"].map(earlier["pixels"].value_counts()).to_numpy(np.int64)
    column_of = pd.Series(others.index, others["pixels"])
    same = ours["pixels"].map(column_of).fillna(-1).to_numpy(np.int64)
    nearest, bits, counts = nearest_hashes(
        ours["perceptual"].to_numpy(), others["perceptual"].to_numpy(), distance, same, weights
    )
    near = counts > 0
    return _leaking(ours[near], others.iloc[nearest[near]], bits[near], counts[near])


def _leaking(
    ours: pd.DataFrame, others: pd.DataFrame, distance: np.ndarray, counterparts: np.ndarray
) -> pd.DataFrame:
    """Images beside their nearest counterparts, (n,) each; distance: bits, or NA for all."""
    table = ours[["split", "file", "class"]].reset_index(drop=True)
    for column in ("split", "file", "class"):
        table[f"other_{column}"] = others[column].to_numpy()
    table["distance"] = pd.array(np.broadcast_to(distance, len(table)), dtype="Int64")
    table["counterparts"] = np.asarray(counterparts, dtype=np.int64)
    return table


def nearest_hashes(
    ours: np.ndarray, others: np.ndarray, distance: int, same: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Search all pairs of 64-bit hashes, in blocks: the memory does not grow with their number.

    Args:
        ours: (n,) uint64.
        others: (m,) uint64.
        distance: bits in which near hashes differ at most.
        same: (n,) the one of ``others`` that is passed over for each of ``ours``, -1 for none.
        weights: (m,) how many images each of ``others`` stands for.

    Returns:
        For each of ``ours``, (n,): the first of the nearest of ``others``, its distance in
        bits, and the number of images that are near; where that is 0, the two before it mean
        nothing.
    """
    n, m = len(ours), len(others)
    nearest, bits, counts = (np.zeros(n, dtype=np.int64) for _ in range(3))
    if not m:
        return nearest, bits, counts
    rows = max(1, BLOCK // m)
    for begin in range(0, n, rows):
        block = slice(begin, min(begin + rows, n))
        differing = np.bitwise_count(ours[block, None] ^ others)  # (rows, m) uint8
        passed_over = np.flatnonzero(same[block] >= 0)
        differing[passed_over, same[block][passed_over]] = 255
        nearest[block] = differing.argmin(1)
        bits[block] = differing[np.arange(len(differing)), nearest[block]]
        row, column = np.nonzero(differing <= distance)
        counts[block] = np.bincount(row, weights[column], minlength=len(differing))
    return nearest, bits, counts


def example_pairs(
    leaks: pd.DataFrame, dataset: DataSet, pairs: int = 12
) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Choose pairs to look at, as many of each kind as there is room for.

    Within a kind those of different classes come first, then the nearest, then test's.

    Args:
        leaks: as of :func:`find_leaks`.
        dataset: where the images are read.
        pairs: how many at most.

    Returns:
        Image, counterpart, (h, w, 3) uint8 each, and a caption of three lines.
    """
    ordered = leaks.assign(
        agrees=leaks["class"] == leaks["other_class"], late=leaks["split"] != "test"
    ).sort_values(["kind", "agrees", "distance", "late"], kind="stable")
    ordered["rank"] = ordered.groupby("kind", observed=True).cumcount()
    chosen = ordered.sort_values(["rank", "kind"], kind="stable").head(pairs)
    return [
        (
            read_pixels(dataset.root / row["file"]),
            read_pixels(dataset.root / row["other_file"]),
            _caption(row),
        )
        for row in chosen.sort_values(["kind", "rank"]).to_dict("records")
    ]


def _caption(row: dict) -> str:
    bits = "" if pd.isna(row["distance"]) else f", {row['distance']} of 64 bits"
    return (
        f"{row['kind']}{bits}\n{row['split']}: {row['class']}"
        f"\n{row['other_split']}: {row['other_class']}"
    )
