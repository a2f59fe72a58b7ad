"""Read folders without a table: class folders, such folders per year or sample, or per split."""

import re
from collections import Counter
from pathlib import Path

from thesis_lib.data.images import check_names, class_folders, image_name, is_image, is_system
from thesis_lib.data.sources.listing import Listing, check_distinct, no_image, walk
from thesis_lib.errors import InputError, first_few

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
PERIOD = re.compile(r"(19|20)\d\d([-_.]?(0[1-9]|1[0-2])([-_.]?([0-2]\d|3[01]))?)?")  # 2014-07-31
YEAR, GROUP, SPLIT = "year", "group", "split"  # columns of the facts


def read_class_folders(root: Path) -> Listing:
    """List a folder that contains one folder per class; classes may have subfolders.

    Raises:
        InputError: if a folder cannot be read, or a name cannot be written to a table.
    """
    listing = Listing("class-folders", "class folders", root, {})
    for path in walk(root, listing.left_out):
        *steps, name = (*path.relative_to(root).parent.parts, image_name(path))
        if not is_image(name):
            listing.left_out[no_image(path.name)] += 1
        elif not steps:
            listing.left_out["images outside class folders"] += 1
        else:
            listing.files.setdefault(steps[0], {})["/".join((*steps[1:], name))] = path
    for folder in class_folders(root):  # also those without images
        listing.files.setdefault(folder.name, {})
    check_distinct(root, {name: name for name in listing.files})
    for name, files in listing.files.items():
        check_names(root / name, files)
    return listing


def read_folders_of(root: Path, tops: dict[str, str], what: str) -> Listing:
    """List classes that are pooled over several folders of class folders.

    Args:
        root: the folder that contains the folders of class folders.
        tops: name of such a folder -> its value in the facts; others are left out.
        what: the name of the facts' column, such as ``GROUP``.
    """
    words = f"class folders in each of {', '.join(tops)}"
    listing = Listing("split" if what == SPLIT else "groups", words, root, {})
    listing.is_split = what == SPLIT
    for top, value in tops.items():
        found = read_class_folders(root / top)
        listing.left_out += found.left_out
        for name, files in found.files.items():
            pooled = listing.files.setdefault(name, {})
            for file, path in files.items():
                pooled[f"{top}/{file}"] = path
                listing.facts[name, f"{top}/{file}"] = {what: value}
    for path in root.iterdir():
        if path.is_file() and not is_system(path.name):
            listing.left_out["files outside these folders"] += 1
        elif path.is_dir() and path.name not in tops and not is_system(path.name):
            listing.left_out[f"folder {path.name}, which is none of these"] += 1
    check_distinct(root, {name: name for name in listing.files})
    return listing


def split_folders(root: Path) -> dict[str, str]:
    """Return the folders of a source that is split already: name -> train, val or test; or {}."""
    found = {
        folder.name: SPLIT_NAMES[folder.name.lower()]
        for folder in class_folders(root)
        if folder.name.lower() in SPLIT_NAMES and class_folders(folder)
    }
    return found if "train" in found.values() and len(found) > 1 else {}


def period_folders(root: Path) -> list[str]:
    """Return the names of the folders if all are years, months or days of class folders; or []."""
    tops = class_folders(root)
    periods = [folder.name for folder in tops if PERIOD.fullmatch(folder.name)]
    return periods if len(periods) == len(tops) and all(map(class_folders, tops)) else []


def check_are_classes(listing: Listing) -> None:
    """Check that the folders that are about to become classes do not look like anything else.

    Raises:
        InputError: if there is only one, if they are called like splits or years and contain
            folders, or if many of them contain folders of the same names.
    """
    root = listing.root
    deep = [name for name in listing.files if class_folders(root / name)]
    if len(listing.files) == 1 and deep:
        raise InputError(
            f"{root} has only one folder, {deep[0]!r}, which contains folders; give "
            f"{root / deep[0]} if those are the classes"
        )
    odd = [n for n in deep if n.lower() in SPLIT_NAMES or PERIOD.fullmatch(n)]
    if odd:
        raise InputError(
            f"the folder {odd[0]!r} of {root} contains folders, so it looks like a split or a "
            f"year, not like a class; give {root / odd[0]} alone, or write --format groups to "
            "pool the classes over such folders, or --format class-folders if it is a class"
        )
    inner = {name: {f.name for f in class_folders(root / name)} for name in listing.files}
    if len(inner) < 2 or not all(inner.values()):
        return
    often = Counter(name for names in inner.values() for name in names)
    shared = sorted(name for name, number in often.items() if number > len(inner) / 2)
    if len(shared) >= 2:
        raise InputError(
            f"the folders {first_few(list(inner))} of {root} all contain the folders "
            f"{first_few(shared)}, so they look like samples or copies, not like classes; write "
            "--format groups to pool the classes over them, or --format class-folders if they "
            "are classes"
        )
