"""Split a source for cross-validation, so that each image is in the test split of one fold."""

from collections.abc import Mapping, Sequence

import numpy as np

from thesis_lib.data.splits.grouping import Grouping, assign_folds, check_plan, number_groups
from thesis_lib.errors import InputError

FEWEST = {"linear-head": 3, "cosine": 2}  # recipe -> the smallest number of folds


def check_fold(fold: int, num_folds: int, recipe: str) -> None:
    """Raise an InputError if there are too few folds for the recipe, or no such fold."""
    if num_folds < FEWEST[recipe]:
        raise InputError(
            f"--folds must be at least {FEWEST[recipe]} for the recipe {recipe}, not {num_folds}"
        )
    if not 1 <= fold <= num_folds:
        raise InputError(f"there is no fold {fold} of {num_folds}; folds are numbered from 1")


def split_fold(
    files: Mapping[str, Sequence[str]],
    grouping: Grouping | None,
    recipe: str,
    seed: int,
    fold: tuple[int, int],
) -> dict[str, dict[str, list[str]]]:
    """Split classes such that one of K folds is the test split.

    scikit-learn's ``StratifiedKFold`` makes the folds, or ``StratifiedGroupKFold`` if the images
    are grouped. With the recipe linear-head, the fold after the one of the test split is the val
    split; after the last fold comes the first.

    Args:
        files: class -> its files, sorted; without a grouping, at least K of each class.
        grouping: the groups of the files, each of which is in a single fold; or None.
        recipe: "linear-head" (train, val, test) or "cosine" (train, test).
        seed: random seed of the folds, the same for all of them.
        fold: number of the fold that is the test split, from 1, and K.

    Returns:
        class -> split -> files, sorted; with groups, a class may be missing from val and test.

    Raises:
        InputError: if there are too few groups, or train would have no images of a class.
    """
    number, num_folds = fold
    images = [(name, file) for name, found in files.items() for file in found]
    label_of = {name: label for label, name in enumerate(files)}
    labels = np.array([label_of[name] for name, _ in images])
    groups = None if grouping is None else number_groups(images, grouping)
    if grouping is not None and groups is not None and groups.max() + 1 < num_folds:
        raise InputError(
            f"{grouping.option} makes only {groups.max() + 1} groups, too few for {num_folds} "
            "folds; give fewer folds, or one that makes more groups"
        )
    fold_of = assign_folds(labels, groups, num_folds, np.random.RandomState(seed)) + 1
    split_of = np.full(len(images), "train")
    split_of[fold_of == number] = "test"
    splits = ["train", "test"]
    if recipe == "linear-head":
        split_of[fold_of == number % num_folds + 1] = "val"
        splits = ["train", "val", "test"]
    plan: dict[str, dict[str, list[str]]] = {n: {split: [] for split in splits} for n in files}
    for (name, file), split in zip(images, split_of.tolist(), strict=True):
        plan[name][split].append(file)
    check_plan(plan, "--folds" if grouping is None else grouping.option)
    return plan
