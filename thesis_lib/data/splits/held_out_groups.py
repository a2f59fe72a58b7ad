"""Hold out whole groups, such as a year or a cruise, as the test split."""

from collections.abc import Mapping, Sequence

from thesis_lib.data.splits.grouping import Grouping, split_groups
from thesis_lib.errors import InputError, first_few, nearest


def hold_out_groups(
    files: Mapping[str, Sequence[str]],
    grouping: Grouping,
    held_out: Sequence[str],
    recipe: str,
    seed: int,
) -> dict[str, dict[str, list[str]]]:
    """Put the images of some groups into test, and the others into train and val.

    With the recipe linear-head, a fifth of the other images become val, also by groups; with
    cosine, all of them become train.

    Args:
        files: class -> its files.
        grouping: the groups of the files.
        held_out: the groups for the test split.
        recipe: "linear-head" or "cosine".
        seed: random seed of val.

    Returns:
        class -> split -> files; a class may be missing from val and test.

    Raises:
        InputError: if a group is unknown, train would have no images of a class, or the other
            groups are too few for a val split.
    """
    group = {(n, f): grouping.of(n, f) or "" for n, found in files.items() for f in found}
    known = sorted(set(group.values()) - {""})
    for name in held_out:
        if name not in known:
            listed = f"; the groups are {first_few(known)}" if known else ""
            raise InputError(
                f"--test-group {name}: {grouping.option} makes no such group"
                f"{nearest(name, known) or listed}"
            )
    test = {n: [f for f in found if group[n, f] in held_out] for n, found in files.items()}
    rest = {n: [f for f in found if group[n, f] not in held_out] for n, found in files.items()}
    alone = [name for name, found in rest.items() if not found]
    if len(alone) == len(files):
        raise InputError("--test-group holds out all groups; leave some for train")
    if alone:
        raise InputError(
            f"train would have no images of {first_few(alone)}, because all of them are in the "
            "groups held out with --test-group; leave these classes out with --exclude"
        )
    if recipe == "cosine":
        return {name: {"train": rest[name], "test": test[name]} for name in files}
    # A class of which only one group is left has no images in val.
    left = {name: {group[name, file] or file for file in found} for name, found in rest.items()}
    shared = {name: found for name, found in rest.items() if len(left[name]) > 1}
    if len(set().union(*left.values())) < 2 or not shared:
        raise InputError(
            "too few groups are left for train and val besides those held out with --test-group; "
            "hold out fewer, or use --recipe cosine, which makes no val"
        )
    halves = split_groups(shared, grouping, "cosine", seed)
    return {
        name: {
            "train": halves[name]["train"] if name in halves else rest[name],
            "val": halves[name]["test"] if name in halves else [],
            "test": test[name],
        }
        for name in files
    }
