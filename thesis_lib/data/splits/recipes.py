"""Split a source into train, val and test by one of the thesis's two recipes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thesis_lib.data.sources.listing import Listing
from thesis_lib.data.sources.recognition import Reading, read_source
from thesis_lib.data.splits.folds import check_fold, split_fold
from thesis_lib.data.splits.grouping import Grouping, by_pattern, split_groups
from thesis_lib.data.splits.held_out_groups import hold_out_groups
from thesis_lib.data.splits.sizes import check_rows_left, measure_sizes
from thesis_lib.data.splits.writer import Plan, check_places, write_split
from thesis_lib.errors import InputError, first_few, nearest

# recipe -> the smallest number of images per class that gives every split at least one
RECIPES = {"linear-head": 4, "cosine": 2}


def split_files(files: Sequence[str], recipe: str, seed: int = 42) -> dict[str, list[str]]:
    """Split the files of one class as in the thesis.

    Args:
        files: the sorted files of the class, at least ``RECIPES[recipe]`` of them.
        recipe: "linear-head" (70 / 15 / 15: 30 % held out, then halved into val and test) or
            "cosine" (80 / 20: train and test).
        seed: scikit-learn's ``random_state``, the same for every class.

    Returns:
        split -> files.
    """
    from sklearn.model_selection import train_test_split  # takes a second to import

    if recipe == "cosine":
        train, test = train_test_split(list(files), test_size=0.2, random_state=seed)
        return {"train": train, "test": test}
    train, rest = train_test_split(list(files), test_size=0.3, random_state=seed)
    val, test = train_test_split(rest, test_size=0.5, random_state=seed)
    return {"train": train, "val": val, "test": test}


@dataclass(frozen=True)
class SplitOptions:
    """How to split a source.

    Args:
        recipe: a key of ``RECIPES``, see :func:`split_files`.
        seed: random seed, from 0 to 2^32 - 1.
        fold, folds: for cross-validation, the number of the fold that is the test split, and the
            number of folds, see :func:`thesis_lib.data.splits.folds.split_fold`.
        min_images: leave out classes with fewer images than this.
        exclude: names of classes to leave out.
        copy: copy the files; otherwise they are hard-linked where the file system allows it.
        group_by: a regular expression that gives the group of a file, see
            :func:`thesis_lib.data.splits.grouping.group_of`. All images of a group go to the same
            split.
        group_by_column: a column of the listing's facts that gives the group of a file.
        test_group: the groups that are the test split, see
            :func:`thesis_lib.data.splits.held_out_groups.hold_out_groups`.
        as_published: take over the column split of the listing's facts.
        crop_bottom: rows that later stages cut off the bottom of each image.
        pixel_size: micrometres per pixel or a column with them, to measure the organisms, see
            :func:`thesis_lib.data.splits.sizes.measure_sizes`.

    Raises:
        InputError: if a recipe is unknown, or a number is out of range.
    """

    recipe: str = "linear-head"
    seed: int = 42
    fold: int | None = None
    folds: int | None = None
    min_images: int | None = None
    exclude: Sequence[str] = ()
    copy: bool = False
    group_by: str | None = None
    group_by_column: str | None = None
    test_group: Sequence[str] = ()
    as_published: bool = False
    crop_bottom: int = 0
    pixel_size: str | None = None

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise InputError(
                f"recipe {self.recipe!r} is unknown; choose one of {', '.join(RECIPES)}"
            )
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must be from 0 to 4294967295, not {self.seed}")
        if self.folds is not None:
            check_fold(self.fold or 1, self.folds, self.recipe)
        if self.crop_bottom < 0:
            raise InputError(f"crop_bottom must be 0 or more rows, not {self.crop_bottom}")

    def description(self) -> dict[str, Any]:
        """Return what ``dataset.json`` says about a split with these options."""
        how = asdict(self)
        del how["copy"]
        if self.as_published:
            del how["recipe"], how["seed"]
        if self.folds is None:
            del how["fold"], how["folds"]
        return how


def split_dataset(
    source: Path, destination: Path, recipe: str = "linear-head", **options: Any
) -> dict[str, int]:
    """Read a folder as it is recognised and split it; return what :func:`split_listing` does.

    Args:
        source: see :func:`thesis_lib.data.sources.recognition.read_source`.
        destination: the new folder of the split.
        recipe: a key of ``RECIPES``.
        options: further fields of :class:`SplitOptions`.
    """
    check_places(source, destination)
    chosen = SplitOptions(recipe, **options)
    return split_listing(read_source(source, Reading()), destination, chosen)


def split_listing(listing: Listing, destination: Path, options: SplitOptions) -> dict[str, int]:
    """Split the images of a source into ``destination/{train,val,test}/<class>/``.

    ``destination/manifest.csv`` lists split, class, file, bytes and sha256, then the facts of the
    listing, and with a grouping also group (empty for a file without a group).
    ``destination/dataset.json`` holds the format and the options. The split is built
    in a temporary folder beside ``destination`` and then renamed, so it is either complete or
    absent.

    Returns:
        The classes left out by ``min_images``: class -> number of images.

    Raises:
        InputError: if the listing has no images, a class to exclude is unknown, a class is too
            small for the recipe, a column is unknown, or the groups cannot be split.
    """
    if listing.is_split and not options.as_published:
        raise InputError(
            f"{listing.root} is already split: it has {listing.words}; leave out --recipe to "
            "take its split over, or give the folder of the unsplit data"
        )
    files, left_out = _files_by_class(listing, options)
    grouping = grouping_of(listing, options)
    if options.as_published:
        plan = _published_plan(listing, files)
    elif options.test_group:
        if grouping is None:
            raise InputError("--test-group needs --group-by or --group-by-column")
        if options.folds is not None:
            raise InputError("--folds cannot be used with --test-group, which is the test split")
        held_out = options.test_group
        plan = hold_out_groups(files, grouping, held_out, options.recipe, options.seed)
    elif options.folds is not None:
        fold = (options.fold or 1, options.folds)
        plan = split_fold(files, grouping, options.recipe, options.seed, fold)
    elif grouping is None:
        plan = {n: split_files(found, options.recipe, options.seed) for n, found in files.items()}
    else:
        plan = split_groups(files, grouping, options.recipe, options.seed)
    check_rows_left(listing, files, options.crop_bottom)
    if options.pixel_size is not None:
        measure_sizes(listing, files, options.pixel_size, options.crop_bottom)
    described = Plan(plan, options.description(), grouping)
    write_split(listing, destination, described, options.copy)
    return left_out


def grouping_of(listing: Listing, options: SplitOptions) -> Grouping | None:
    """Return how the options group files, or None. Images of one object are always a group.

    Raises:
        InputError: if both kinds of grouping are given, the pattern is invalid or the column is
            unknown.
    """
    if options.group_by is not None and options.group_by_column is not None:
        raise InputError("--group-by and --group-by-column cannot be used together")
    if options.group_by is not None:
        return by_pattern(options.group_by)
    column = options.group_by_column
    if column is None and listing.images_share_objects:
        column = "object_id"
    if column is None:
        return None
    if column not in listing.columns:
        known = f"; it has {', '.join(listing.columns)}" if listing.columns else ""
        raise InputError(
            f"{listing.root} has no column {column!r} to group by"
            f"{nearest(column, listing.columns) or known}"
        )
    return Grouping(
        f"--group-by-column {column}", lambda name, file: listing.facts[name, file][column] or None
    )


def _published_plan(
    listing: Listing, files: dict[str, list[str]]
) -> dict[str, dict[str, list[str]]]:
    """Return the split that the source comes with: class -> split -> files.

    Raises:
        InputError: if it has none, it names other splits, or train lacks a class.
    """
    parts = {facts.get("split", "") for facts in listing.facts.values()}
    if not {"train", "test"} <= parts <= {"train", "val", "test"}:
        named = f"its splits are {', '.join(map(repr, sorted(parts)))}" if any(parts) else "none"
        raise InputError(
            f"{listing.root} has no published split into train, val and test: {named}; leave out "
            "--published-split to make one"
        )
    splits = [split for split in ("train", "val", "test") if split in parts]
    plan: dict[str, dict[str, list[str]]] = {name: {s: [] for s in splits} for name in files}
    for name, found in files.items():
        for file in found:
            plan[name][listing.facts[name, file]["split"]].append(file)
    lacking = [name for name, its in plan.items() if not its["train"]]
    if lacking:
        raise InputError(
            f"train has no images of {first_few(lacking)}; leave them out with --exclude"
        )
    return plan


def _files_by_class(
    listing: Listing, options: SplitOptions
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Return the images of each class to split, and the sizes of the classes that are too small."""
    source = listing.root
    for name in options.exclude:
        if name not in listing.files:
            raise InputError(
                f"{source} has no class {name!r} to exclude{nearest(name, listing.files)}"
            )
    names = sorted(name for name in listing.files if name not in options.exclude)
    files = {name: sorted(listing.files[name]) for name in names}
    if not files:
        raise InputError(f"{source} has no class folders{' left' if options.exclude else ''}")

    left_out, least = {}, options.min_images
    if least is not None:
        left_out = {name: len(found) for name, found in files.items() if len(found) < least}
        files = {name: found for name, found in files.items() if name not in left_out}
        if not files:
            raise InputError(
                f"--min-images {least} leaves no class of {source}; their images: "
                f"{', '.join(f'{name!r} {n:,}' for name, n in left_out.items())}"
            )
    needed = 1 if options.as_published else max(RECIPES[options.recipe], options.folds or 0)
    wants = "a split" if options.as_published else f"recipe {options.recipe}"
    wants = wants if options.folds is None else f"{wants} with {options.folds} folds"
    small = [f"{name!r} ({len(found)})" for name, found in files.items() if len(found) < needed]
    if small:
        raise InputError(
            f"{wants} needs at least {needed} images per class; too few in "
            f"{', '.join(small)}; leave out these classes with --min-images {needed}"
        )
    return files, left_out
