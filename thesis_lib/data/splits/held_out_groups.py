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
    if alone:
        raise InputError(
            f"train would have no images of {first_few(alone)}, because all of them are in the "
            "groups held out with --test-group; leave these classes out with --exclude"
        )
    if recipe == "cosine":
        return {name: {"train": rest[name], "test": test[name]} for name in files}
    halves = split_groups(rest, grouping, "cosine", seed)
    return {
        name: {"train": half["train"], "val": half["test"], "test": test[name]}
        for name, half in halves.items()
    }
