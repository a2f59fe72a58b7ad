"""Grouped splits, which keep all images of a group (such as one camera frame) in the same split.

Organisms cropped from one frame share its light, water and focus. If some of them are in the
training set and others in the test set, the test accuracy overestimates the accuracy on new frames.
"""

import re
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from thesis_lib.errors import InputError
from thesis_lib.system.progress import bar

HELD_OUT = {"linear-head": (0.3, ("val", "test")), "cosine": (0.2, ("test",))}
FOLDS = 10
# About 3,000 groups are assigned to folds per second. With few groups it pays to try several
# shuffles; with many, any shuffle gives balanced folds. So shuffles x groups is limited.
GROUPS_TO_PLACE, MOST_SHUFFLES = 20_000, 10
# Shuffling only changes the order of groups with equal class counts. If all groups differ, the
# folds are the same for every seed, so the seed also draws which of the 120 possible choices of
# held-out folds are compared.
MOST_CHOICES = 20


@dataclass(frozen=True)
class Grouping:
    """How files are grouped.

    Args:
        option: the option of the command line that asked for it, for messages.
        of: (class, file) -> the group of a file, or None if it has none.
    """

    option: str
    of: Callable[[str, str], str | None]


def group_of(pattern: str, file: str) -> str | None:
    """Return the group of a file, or ``None`` if the pattern does not match.

    The group is the text matched by the pattern's first capturing group, or by the whole pattern
    if it has none. An empty match, or a capturing group that did not take part in the match,
    counts as no group.

    Args:
        pattern: a regular expression, searched for in ``file``.
        file: path of the file below its class folder.
    """
    match = re.search(pattern, file)
    if match is None:
        return None
    return match[1 if match.re.groups else 0] or None


def by_pattern(pattern: str) -> Grouping:
    """Group files by a regular expression, see :func:`group_of`.

    Raises:
        InputError: if the pattern is not valid.
    """
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(
            f"--group-by {pattern!r} is not a valid regular expression: {error}"
        ) from None
    return Grouping(f"--group-by {pattern!r}", lambda name, file: group_of(pattern, file))


def split_groups(
    files: Mapping[str, Sequence[str]], grouping: Grouping, recipe: str, seed: int
) -> dict[str, dict[str, list[str]]]:
    """Split classes by a recipe so that each group is in one split only and classes are balanced.

    A group may contain images of several classes; a file without a group is its own group.
    scikit-learn's ``StratifiedGroupKFold`` makes 10 folds. Of these, 3 are held out and halved
    into val and test (cosine: 2 are held out as test). The seed draws several shuffles and
    several choices of folds to hold out. The best one has the fewest classes missing from a split
    that their groups would allow; ties are decided by how close the shares of the classes are to
    the recipe's.

    Args:
        files: class -> its files; classes and files are sorted.
        grouping: the groups of the files.
        recipe: a key of ``HELD_OUT``.
        seed: random seed; with few groups, different seeds may give the same split.

    Returns:
        class -> split -> files, sorted; a class may be missing from val and test.

    Raises:
        InputError: if no file has a group or there are too few groups, if all images of a class
            are in one group, or if train would have no
            images of a class.
    """
    share, held_out = HELD_OUT[recipe]
    images = [(name, file) for name, found in files.items() for file in found]
    label_of = {name: label for label, name in enumerate(files)}
    labels = np.array([label_of[name] for name, _ in images])
    groups = number_groups(images, grouping)
    needed = len(held_out) + 1
    if (num_groups := groups.max() + 1) < needed:
        raise InputError(
            f"{grouping.option} puts all {len(images):,} images into {num_groups} "
            f"{'group' if num_groups == 1 else 'groups'}, but recipe {recipe} needs at least "
            f"{needed}; give one that makes more groups"
        )
    _check_classes(list(files), labels, groups)

    random = np.random.RandomState(seed)
    split_of = np.full(len(images), "train")
    held = np.flatnonzero(_hold_out(labels, groups, share, len(held_out), random))
    split_of[held] = held_out[-1]
    if len(held_out) == 2:
        half = _hold_out(labels[held], groups[held], 0.5, 1, random)
        split_of[held[half]] = held_out[0]

    plan: dict[str, dict[str, list[str]]] = {
        name: {split: [] for split in ("train", *held_out)} for name in files
    }
    for (name, file), split in zip(images, split_of.tolist(), strict=True):
        plan[name][split].append(file)
    check_plan(plan, grouping.option)
    return plan


def number_groups(images: Sequence[tuple[str, str]], grouping: Grouping) -> np.ndarray:
    """Return the index of each image's group, (n,); groups are numbered from 0 as they appear.

    Raises:
        InputError: if no image has a group.
    """
    names = [grouping.of(*image) for image in images]
    if not any(names):
        raise InputError(
            f"{grouping.option} matches no file; a pattern is searched for in paths below "
            f"the class folder, such as {images[0][1]!r}"
        )
    numbers: dict[str | tuple[str, str], int] = {}
    keys = (name or image for name, image in zip(names, images, strict=True))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def _check_classes(names: Sequence[str], labels: np.ndarray, groups: np.ndarray) -> None:
    """Raise an InputError for classes that cannot be split because they have only one group."""
    groups_of = (_table(labels, groups) > 0).sum(axis=0)
    alone = [name for name, count in zip(names, groups_of, strict=True) if count == 1]
    if alone:
        raise InputError(
            "these classes cannot be split, because all images of the class are in one group: "
            f"{', '.join(map(repr, alone))}; leave them out with --exclude {shlex.join(alone)}"
        )


def check_plan(plan: Mapping[str, Mapping[str, Sequence[str]]], option: str) -> None:
    """Raise an InputError if train lacks a class, or a split has no images at all."""
    lacking = [repr(name) for name, splits in plan.items() if not splits["train"]]
    if lacking:
        raise InputError(
            f"train would have no images of {', '.join(lacking)}, because all groups of the class "
            "went to other splits; try another --seed, or leave it out with --exclude or "
            "--min-images"
        )
    for split in next(iter(plan.values())):
        if not any(splits[split] for splits in plan.values()):
            raise InputError(
                f"{split} would have no images, because {option} makes too few groups; try another "
                "--seed, or one that makes more groups"
            )


def _table(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Count the images per group and class, (num_groups, num_classes)."""
    table = np.zeros((groups.max() + 1, labels.max() + 1), np.int64)
    np.add.at(table, (groups, labels), 1)
    return table


def _hold_out(
    labels: np.ndarray,
    groups: np.ndarray,
    share: float,
    num_splits: int,
    random: np.random.RandomState,
) -> np.ndarray:
    """Choose whole groups to hold out, so that they contain about a given share of every class.

    Args:
        labels: (n,) class index of each image.
        groups: (n,) group index of each image.
        share: share of each class to hold out; 0.5 halves the images, with only two folds.
        num_splits: number of splits that the held-out images will be divided into.
        random: random number generator.

    Returns:
        (n,) booleans, True for held-out images; all False if there are too few groups.
    """
    labels = np.unique(labels, return_inverse=True)[1]
    groups = np.unique(groups, return_inverse=True)[1]
    if np.bincount(labels).max() <= num_splits:  # too few images for scikit-learn to stratify
        labels = np.zeros_like(labels)
    wanted = 2 if share == 0.5 else FOLDS
    num_folds = min(wanted, groups.max() + 1, np.bincount(labels).max())
    if num_folds <= num_splits:
        return np.zeros(len(labels), bool)
    choices = list(combinations(range(num_folds), max(num_splits, round(share * num_folds))))
    drawn = random.permutation(len(choices))[:MOST_CHOICES]
    choices = [choices[number] for number in drawn]
    table = _table(labels, groups)
    found = []
    shuffles = min(max(1, GROUPS_TO_PLACE // len(table)), MOST_SHUFFLES)
    for _ in bar(iterable=range(shuffles), desc="group", unit="shuffle"):
        fold_of = assign_folds(labels, groups, num_folds, random)
        fold_of_group = np.empty(len(table), np.int64)
        fold_of_group[groups] = fold_of
        members = [table[fold_of_group == fold] for fold in range(num_folds)]
        images = np.stack([rows.sum(axis=0) for rows in members])
        group_counts = np.stack([(rows > 0).sum(axis=0) for rows in members])
        faults = [_faults(images, group_counts, choice, share, num_splits) for choice in choices]
        best = min(range(len(choices)), key=faults.__getitem__)
        found.append((faults[best], np.isin(fold_of, choices[best])))
    return min(found, key=lambda pair: pair[0])[1]


def assign_folds(
    labels: np.ndarray, groups: np.ndarray | None, num_folds: int, random: np.random.RandomState
) -> np.ndarray:
    """Assign each image to a fold by its class and, if there are groups, with its whole group.

    Args:
        labels: (n,) class index of each image.
        groups: (n,) group index of each image, or None.
        num_folds: number of folds.
        random: random number generator.

    Returns:
        (n,) index of each image's fold, by scikit-learn's ``StratifiedKFold`` or
        ``StratifiedGroupKFold``.
    """
    from sklearn.model_selection import (  # takes a second to import
        StratifiedGroupKFold,
        StratifiedKFold,
    )

    fold_of = np.empty(len(labels), np.int64)
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = splitter(num_folds, shuffle=True, random_state=random)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about classes with fewer images than folds
        for fold, (_, members) in enumerate(folds.split(labels, labels, groups)):
            fold_of[members] = fold
    return fold_of


def _faults(
    images: np.ndarray, groups: np.ndarray, choice: Sequence[int], share: float, num_splits: int
) -> tuple[int, int, float]:
    """Measure how bad a choice of folds to hold out is; smaller is better.

    Args:
        images: (num_folds, num_classes) number of images of each class in each fold.
        groups: (num_folds, num_classes) number of groups with that class in each fold.
        choice: the folds to hold out.
        share: share of each class to hold out.
        num_splits: number of splits that the held-out images will be divided into.

    Returns:
        The number of classes that train would lack, the number of classes that are in fewer splits
        than their groups allow, and the mean deviation of the classes' shares from ``share``.
    """
    folds = list(choice)
    total, held = groups.sum(axis=0), groups[folds].sum(axis=0)
    emptied = int(np.sum((held == total) & (total > 1)))
    missed = int(np.sum(held < np.minimum(num_splits, total - 1)))
    deviations = np.abs(images[folds].sum(axis=0) / images.sum(axis=0) - share)
    train = emptied if share < 0.5 else 0  # with 0.5, val and test are separated: no train split
    return train, emptied + missed, float(deviations.mean())
