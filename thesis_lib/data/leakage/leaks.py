"""Find leaks: images of val and test that have a counterpart in an earlier split.

Val is compared with train, and test with train and val. ``KINDS`` lists what counts as a
counterpart. Near-duplicates are found by ImageHash's perceptual hash ``phash``, of 64 bits. Nearly
every image has half of these bits set, so two hashes usually differ in an even number of bits. All
images of a single colour have the same hash and count as near-duplicates.
"""

import numpy as np
import pandas as pd

from thesis_lib.data.datasets import SPLITS, DataSet
from thesis_lib.data.leakage.image_hashes import image_hashes
from thesis_lib.data.splits.grouping import group_of
from thesis_lib.errors import InputError

KINDS = ("identical pixels", "near-duplicate", "same group", "same name")
# If files are numbered from 1 in each class or split (0001.png), equal names mean nothing.
TELLS_LITTLE = "same name"
ANY = "any but same name"
BLOCK = 2**20  # pairs of hashes compared at once: about 30 MB of memory
COUNTERPART = ["other_split", "other_file", "other_class", "distance", "counterparts"]
LEAKS = ["kind", "split", "file", "class", *COUNTERPART]


def find_leaks(dataset: DataSet, distance: int, group_by: str) -> pd.DataFrame:
    """Find the images of val and test that have a counterpart in an earlier split.

    The first call reads every image; later calls use ``runs/<data>/image_hashes.csv``. Images that
    cannot be read are skipped; the data statistics list them.

    Args:
        dataset: the data set; val and test may be missing.
        distance: largest number of differing bits between the perceptual hashes of near-duplicates.
        group_by: a regular expression, searched for in each file's path below its class folder.
            The text matched by its first capturing group, or by the whole pattern if it has none,
            is the file's group. A file without a match, or with an empty one, has no group. ""
            skips the search for groups.

    Returns:
        One row per kind and image: kind (categorical, over the kinds that were searched for),
        split, file, class; other_split, other_file and other_class of the nearest counterpart (of
        equally near ones the first, with train before val); distance (in bits, for near-duplicates
        only); counterparts (their number). A pair with identical pixels is not listed again as
        near-duplicates.

    Raises:
        InputError: if the pattern finds no group in any file.
    """
    images = _image_table(dataset, group_by)
    kinds = [kind for kind in KINDS if kind != "same group" or group_by]
    found = []
    for num_earlier in (1, 2):
        ours = images[images["split"] == SPLITS[num_earlier]]
        earlier = images[images["split"].isin(SPLITS[:num_earlier])]
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
    """Return one row per image: split, file, class, name, group (or None), pixels, perceptual."""
    files = [file for split in SPLITS for file in split_files_of(dataset, split)]
    groups = _groups(files, group_by)  # first, so that a bad pattern fails before images are read
    paths = [file.split("/") for file in files]
    images = pd.DataFrame(
        {
            "split": [path[0] for path in paths],
            "file": files,
            "class": [path[1] for path in paths],
            "name": [path[-1] for path in paths],
            "group": groups,
        }
    )
    images = images.merge(image_hashes(dataset), on="file")
    images["perceptual"] = np.array([int(bits, 16) for bits in images["perceptual"]], np.uint64)
    return images


def split_files_of(dataset: DataSet, split: str) -> list[str]:
    """Return all files of a split, or none if the data set does not have the split."""
    return dataset.splits[split].files if split in dataset.splits else []


def _groups(files: list[str], group_by: str) -> list[str | None]:
    """Return each file's group according to a pattern, or None.

    Raises:
        InputError: if no file has a group.
    """
    if not group_by:
        return [None] * len(files)
    below = [file.split("/", 2)[2] for file in files]
    groups = [group_of(group_by, file) for file in below]
    if not any(groups):
        raise InputError(
            f"group_by {group_by!r} matches no file; the pattern is searched for in paths below "
            f"the class folder, such as {below[0]!r}"
        )
    return groups


def _with_equal(ours: pd.DataFrame, earlier: pd.DataFrame, column: str) -> pd.DataFrame:
    """Find the images of ``ours`` that have the same value in a column as any of ``earlier``."""
    ours, earlier = ours.dropna(subset=column), earlier.dropna(subset=column)
    first = earlier.drop_duplicates(column).set_index(column)
    ours = ours[ours[column].isin(first.index)]
    counts = earlier[column].value_counts()
    others = first.loc[ours[column]].reset_index()
    return _leaking(ours, others, pd.NA, counts.loc[ours[column]].to_numpy())


def _near_duplicates(ours: pd.DataFrame, earlier: pd.DataFrame, distance: int) -> pd.DataFrame:
    """Find the images of ``ours`` with near-duplicates in ``earlier`` that differ in pixels."""
    others = earlier.drop_duplicates("pixels").reset_index(drop=True)  # keeps the first of each
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
    """Join images with their nearest counterparts, (n,) each; distance: in bits, or NA for all."""
    table = ours[["split", "file", "class"]].reset_index(drop=True)
    for column in ("split", "file", "class"):
        table[f"other_{column}"] = others[column].to_numpy()
    table["distance"] = pd.array(np.broadcast_to(distance, len(table)), dtype="Int64")
    table["counterparts"] = np.asarray(counterparts, dtype=np.int64)
    return table


def nearest_hashes(
    ours: np.ndarray, others: np.ndarray, distance: int, same: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the nearest of ``others`` for each of ``ours``, by Hamming distance of 64-bit hashes.

    Pairs are compared in blocks, so memory use does not grow with their number.

    Args:
        ours: (n,) uint64 hashes.
        others: (m,) uint64 hashes.
        distance: largest distance, in bits, that counts as near.
        same: (n,) for each of ``ours``, the index of one of ``others`` to ignore, or -1 for none.
        weights: (m,) number of images that each of ``others`` stands for.

    Returns:
        For each of ``ours``, (n,) each: the index of the nearest of ``others`` (the first of
        equally near ones), its distance in bits, and the number of images that are near. Where
        this number is 0, ignore the other two.
    """
    n, m = len(ours), len(others)
    nearest, bits, counts = (np.zeros(n, dtype=np.int64) for _ in range(3))
    if not m:
        return nearest, bits, counts
    rows = max(1, BLOCK // m)
    for begin in range(0, n, rows):
        block = slice(begin, min(begin + rows, n))
        differing = np.bitwise_count(ours[block, None] ^ others)  # (rows, m) uint8
        ignored = np.flatnonzero(same[block] >= 0)
        differing[ignored, same[block][ignored]] = 255
        nearest[block] = differing.argmin(1)
        bits[block] = differing[np.arange(len(differing)), nearest[block]]
        row, column = np.nonzero(differing <= distance)
        counts[block] = np.bincount(row, weights[column], minlength=len(differing))
    return nearest, bits, counts


def example_pairs(
    leaks: pd.DataFrame, dataset: DataSet, num_pairs: int = 12
) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Choose example pairs to look at, shared equally among the kinds of leaks.

    Within a kind, pairs of different classes come first, then pairs with the smallest distance,
    then pairs from the test split.

    Args:
        leaks: the table returned by :func:`find_leaks`.
        dataset: the data set to read the images from.
        num_pairs: largest number of pairs.

    Returns:
        One tuple per pair: image and counterpart, (h, w, 3) uint8 each, and a caption of three
        lines.
    """
    ordered = leaks.assign(
        agrees=leaks["class"] == leaks["other_class"], late=leaks["split"] != "test"
    ).sort_values(["kind", "agrees", "distance", "late"], kind="stable")
    ordered["rank"] = ordered.groupby("kind", observed=True).cumcount()
    chosen = ordered.sort_values(["rank", "kind"], kind="stable").head(num_pairs)
    return [
        (
            dataset.read(row["file"]),
            dataset.read(row["other_file"]),
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
