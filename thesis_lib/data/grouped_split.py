"""Splits that keep all images of a group, such as one camera frame, in one part.

Organisms cropped out of one frame share its light, water and focus. Where some are trained on and
others tested on, the test shows less of what new frames would.
"""

import csv
import re
import shlex
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from thesis_lib.errors import InputError
from thesis_lib.system.progress import bar

HELD_OUT = {"linear-head": (0.3, ("val", "test")), "cosine": (0.2, ("test",))}
FOLDS = 10
# Groups to place in folds, some 3,000 a second: a few groups are worth several shuffles, while
# many are balanced by any.
GROUPS_TO_PLACE, MOST_SHUFFLES = 20_000, 10
# Shuffling changes the order of like groups alone: where all are unlike, folds are the same for any
# seed. So the seed also draws the choices of folds to look at, of the 120 there are.
MOST_CHOICES = 20


def group_of(pattern: str, file: str) -> str | None:
    """The group that a file's path below its class folder names, ``None`` for none.

    It is the pattern's first group, or all that it matches where it has none. An empty one, or
    an optional one that took no part, names nothing.
    """
    match = re.search(pattern, file)
    if match is None:
        return None
    return match[1 if match.re.groups else 0] or None


def split_groups(
    files: Mapping[str, Sequence[str]], pattern: str, recipe: str, seed: int
) -> dict[str, dict[str, list[str]]]:
    """Split classes by a recipe so that no group is in two parts, and classes are balanced.

    Groups go across classes; a file without a group is one of its own. scikit-learn's
    ``StratifiedGroupKFold`` makes 10 folds, of which 3 (cosine: 2) are held out, and halves
    these into val and test. Of several shuffles and choices of folds, which the seed draws, that
    one is taken which leaves the fewest classes without a part that their groups allow, and
    among equals the one whose classes' shares are nearest to the recipe's.

    Args:
        files: class -> its sorted files, the classes sorted too.
        pattern: a regular expression, see :func:`group_of`.
        recipe: a key of ``HELD_OUT``.
        seed: of all that is drawn; another one may give the same split of a few groups.

    Returns:
        class -> part -> files, sorted; val and test may lack a class.

    Raises:
        InputError: for a pattern that is none, matches no file or makes too few groups; for
            classes whose images are all in one group, or that train would lack.
    """
    share, parts = HELD_OUT[recipe]
    images = [(name, file) for name, found in files.items() for file in found]
    classes = {name: number for number, name in enumerate(files)}
    labels = np.array([classes[name] for name, _ in images])
    groups = _number_groups(images, pattern)
    needed = len(parts) + 1
    if (number := groups.max() + 1) < needed:
        raise InputError(
            f"--group-by {pattern!r} puts all {len(images):,} images into {number} "
            f"{'group' if number == 1 else 'groups'}, and recipe {recipe} needs at least {needed}; "
            "give a pattern that tells more of them apart"
        )
    _check_classes(list(files), labels, groups)

    random = np.random.RandomState(seed)
    part_of = np.full(len(images), "train")
    held = np.flatnonzero(_hold_out(labels, groups, share, len(parts), random))
    part_of[held] = parts[-1]
    if len(parts) == 2:
        half = _hold_out(labels[held], groups[held], 0.5, 1, random)
        part_of[held[half]] = parts[0]

    plan = {name: {part: [] for part in ("train", *parts)} for name in files}
    for (name, file), part in zip(images, part_of.tolist(), strict=True):
        plan[name][part].append(file)
    _check_plan(plan, pattern)
    return plan


def _number_groups(images: Sequence[tuple[str, str]], pattern: str) -> np.ndarray:
    """The number of each image's group, (n,), counted from 0 in the order of the images."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"--group-by {pattern!r} is no regular expression: {error}") from None
    names = [group_of(pattern, file) for _, file in images]
    if not any(names):
        raise InputError(
            f"--group-by {pattern!r} matches no file; it is searched for in paths below the class "
            f"folder, such as {images[0][1]!r}"
        )
    numbers: dict[str | tuple[str, str], int] = {}
    keys = (name or image for name, image in zip(names, images, strict=True))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def _check_classes(names: Sequence[str], labels: np.ndarray, groups: np.ndarray) -> None:
    """Refuse classes that no split can share out, since they are of one group."""
    groups_of = (_table(labels, groups) > 0).sum(axis=0)
    alone = [name for name, number in zip(names, groups_of, strict=True) if number == 1]
    if alone:
        raise InputError(
            "one group holds all images of the class "
            f"{', '.join(map(repr, alone))}, so that it cannot be in two parts; leave such "
            f"classes out with --exclude {shlex.join(alone)}"
        )


def _check_plan(plan: Mapping[str, Mapping[str, Sequence[str]]], pattern: str) -> None:
    lacking = [repr(name) for name, parts in plan.items() if not parts["train"]]
    if lacking:
        raise InputError(
            f"train would have no image of the class {', '.join(lacking)}, since other parts have "
            "all its groups; give another --seed, or leave it out with --exclude or --min-images"
        )
    for part in next(iter(plan.values())):
        if not any(parts[part] for parts in plan.values()):
            raise InputError(
                f"{part} would have no image, so few groups does --group-by {pattern!r} make; "
                "give another --seed, or a pattern that tells more images apart"
            )


def _table(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """How many images each group has of each class, (groups, classes)."""
    table = np.zeros((groups.max() + 1, labels.max() + 1), np.int64)
    np.add.at(table, (groups, labels), 1)
    return table


def _hold_out(
    labels: np.ndarray,
    groups: np.ndarray,
    share: float,
    parts: int,
    random: np.random.RandomState,
) -> np.ndarray:
    """Choose whole groups so that they hold a share of every class.

    Args:
        labels: (n,) integers, the images' classes.
        groups: (n,) integers.
        share: to hold out of each class; 0.5 halves, and has two folds do.
        parts: into how many parts the images held out will go.
        random: what shuffles.

    Returns:
        (n,) booleans, all of them false where there are too few groups.
    """
    labels = np.unique(labels, return_inverse=True)[1]
    groups = np.unique(groups, return_inverse=True)[1]
    if np.bincount(labels).max() <= parts:  # scikit-learn has no folds for classes so small
        labels = np.zeros_like(labels)
    wanted = 2 if share == 0.5 else FOLDS
    folds = min(wanted, groups.max() + 1, np.bincount(labels).max())
    if folds <= parts:
        return np.zeros(len(labels), bool)
    choices = list(combinations(range(folds), max(parts, round(share * folds))))
    drawn = random.permutation(len(choices))[:MOST_CHOICES]
    choices = [choices[number] for number in drawn]
    table = _table(labels, groups)
    found = []
    shuffles = min(max(1, GROUPS_TO_PLACE // len(table)), MOST_SHUFFLES)
    for _ in bar(iterable=range(shuffles), desc="group", unit="shuffle"):
        fold_of = _folds(labels, groups, folds, random)
        fold_of_group = np.empty(len(table), np.int64)
        fold_of_group[groups] = fold_of
        members = [table[fold_of_group == fold] for fold in range(folds)]
        images = np.stack([rows.sum(axis=0) for rows in members])
        group_counts = np.stack([(rows > 0).sum(axis=0) for rows in members])
        faults = [_faults(images, group_counts, choice, share, parts) for choice in choices]
        best = min(range(len(choices)), key=faults.__getitem__)
        found.append((faults[best], np.isin(fold_of, choices[best])))
    return min(found, key=lambda pair: pair[0])[1]


def _folds(
    labels: np.ndarray, groups: np.ndarray, folds: int, random: np.random.RandomState
) -> np.ndarray:
    """The fold of each image, (n,), by scikit-learn."""
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second to import

    fold_of = np.empty(len(labels), np.int64)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=random)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with fewer images than there are folds
        for fold, (_, members) in enumerate(splitter.split(labels, labels, groups)):
            fold_of[members] = fold
    return fold_of


def _faults(
    images: np.ndarray, groups: np.ndarray, choice: Sequence[int], share: float, parts: int
) -> tuple[int, int, float]:
    """What speaks against holding out some folds, the worst first.

    Args:
        images: (folds, classes), how many of each class a fold has.
        groups: (folds, classes), in how many groups a fold has them.
        choice: the folds to hold out.
        share: to hold out of each class.
        parts: into how many parts they will go.

    Returns:
        How many classes train would lack; how many are in fewer parts than their groups allow;
        and the mean deviation of the classes' shares.
    """
    folds = list(choice)
    total, held = groups.sum(axis=0), groups[folds].sum(axis=0)
    emptied = int(np.sum((held == total) & (total > 1)))
    missed = int(np.sum(held < np.minimum(parts, total - 1)))
    deviations = np.abs(images[folds].sum(axis=0) / images.sum(axis=0) - share)
    train = emptied if share < 0.5 else 0  # of two halves neither is train
    return train, emptied + missed, float(deviations.mean())


def describe_groups(manifest: Path) -> list[str]:
    """What to know of a split by groups, in lines, from its ``manifest.csv``."""
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = {row["group"] for row in rows if row["group"]}
    alone = sum(not row["group"] for row in rows)
    lines = [f"{len(names):,} groups; {alone:,} files match no pattern, each of them on its own"]

    in_class = Counter(row["class"] for row in rows)
    in_part = Counter(row["split"] for row in rows)
    in_both = Counter((row["split"], row["class"]) for row in rows)
    parts = [part for part in ("train", "val", "test") if part in in_part]
    for part in parts:
        share = in_part[part] / len(rows)
        shares = {name: in_both[part, name] / total for name, total in in_class.items()}
        name = max(shares, key=lambda name: abs(shares[name] - share))
        lines.append(
            f"{part} has {100 * share:.1f} % of the images; the class that deviates most is "
            f"{name!r}, {100 * shares[name]:.1f} % of {in_class[name]:,}"
        )
    lines += [
        f"{part} has no image of {name!r}"
        for part in parts
        for name in in_class
        if not in_both[part, name]
    ]
    return lines
