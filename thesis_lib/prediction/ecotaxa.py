"""Write predictions as a TSV table that EcoTaxa (https://ecotaxa.obs-vlfr.fr) can import.

The format follows EcoTaxa's import page (ecotaxa_front: appli/templates/jobs/
import_create_shared_doc.html) and its source code (ecotaxa_back: py/BO/Bundle.py, BO/TSVFile.py,
BO/Mappings.py, BO/Image.py, DB/Object.py, DB/Image.py).
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from thesis_lib.data.images import UNWRITABLE
from thesis_lib.prediction.predictions import UNCLASSIFIED, UNKNOWN, Prediction, ranked
from thesis_lib.system.files import atomic_path

# Bundle.TSV_FILTERS: the file names that EcoTaxa recognises as tables when it imports a folder.
TABLE_NAME = re.compile(r"ecotaxa.*\.(tsv|txt)")
MOST_ID = 255  # maximum length of object_id (ObjectHeader.orig_id)
MOST_FILE_NAME = 255  # maximum length of img_file_name (Image.orig_file_name)
MOST_TEXT = 250  # maximum length of a free text column (ObjectFields.t01 to t20)
# Image.SUPPORTED_FORMATS, as file endings
SUFFIXES = (".gif", ".jpeg", ".jpg", ".png")
REJECTED = {"": 0, UNKNOWN: 1, UNCLASSIFIED: 2}  # values of the column ``rejected``
TEXT, NUMBER = "[t]", "[f]"  # column types, as the second row of the table gives them


def columns(num_classes: int) -> dict[str, str]:
    """Return the table's columns and their EcoTaxa types, ``[t]`` (text) or ``[f]`` (number).

    EcoTaxa requires a status for every category; an image that was rejected has neither. There are
    no columns for the annotator and the time of annotation: EcoTaxa ignores both for predictions
    and records its own (TSVFile.ensure_consistent_fields). The columns from ``object_confidence``
    on are free columns. A project can have 500 numeric and 20 text columns, so ``rejected`` is
    stored as a number (see REJECTED) to leave text columns for other uses.

    Args:
        num_classes: number of classes of the model.
    """
    (_, confidence), *later = ranked(num_classes)
    free = {confidence: NUMBER}
    for name, its_confidence in later:
        free |= {name: TEXT, its_confidence: NUMBER}
    free |= {
        "nearest_image": TEXT,
        "nearest_class": TEXT,
        "similarity": NUMBER,
        "rejected": NUMBER,
    }
    return {
        "img_file_name": TEXT,
        "img_rank": NUMBER,
        "object_id": TEXT,
        "object_annotation_category": TEXT,
        "object_annotation_status": TEXT,
        **{f"object_{name}": kind for name, kind in free.items()},
    }


def file_names(images: Sequence[str], output: Path) -> list[str]:
    """Return the images' paths relative to the table's folder, as EcoTaxa expects them."""
    folder = os.path.abspath(output.parent)
    return [Path(os.path.relpath(image, folder)).as_posix() for image in images]


def object_ids(names: Sequence[str]) -> list[str]:
    """Return an id for each image: the stem of its path, or the path if the stem is not unique.

    Ids must be unique because EcoTaxa treats images with the same id as views of one organism.
    """
    stems = [PurePosixPath(name).stem for name in names]
    times = Counter(stems)
    # Stems contain no slash, so a path with a slash cannot equal the stem of another image.
    paths = (name if "/" in name else f"./{name}" for name in names)
    return [stem if times[stem] == 1 else path for stem, path in zip(stems, paths, strict=True)]


def import_hints(images: Sequence[str], output: Path) -> list[str]:
    """List what the user must change before EcoTaxa can import the table, one line each."""
    hints = []
    if not TABLE_NAME.fullmatch(output.name):
        hints.append(
            f"EcoTaxa only reads tables named ecotaxa*.tsv: rename {output.name} before you "
            f"import it, for example to ecotaxa_{output.stem}.tsv"
        )
    outside = [name for name in file_names(images, output) if name.startswith("../")]
    if outside:
        hints.append(
            f"{len(outside):,} images are outside the table's folder {output.parent}/, but EcoTaxa "
            "imports images from that folder: write the table to a folder that contains them all"
        )
    return hints


def unreadable_file(output: Path) -> Path:
    """Return the path of the CSV file, next to the table, that lists images left out of it."""
    return output.with_name(f"{output.name}.unreadable.csv")


def _with_categories(
    found: Iterable[Prediction], categories: Mapping[str, str]
) -> Iterator[Prediction]:
    """Yield predictions with the categories of EcoTaxa in place of the names of class folders."""
    for one in found:
        classes = tuple(categories.get(name, name) for name in one.classes)
        nearest = categories.get(one.nearest_class, one.nearest_class)
        label = categories.get(one.label, one.label)
        yield replace(one, classes=classes, nearest_class=nearest, label=label)


def write_ecotaxa(
    found: Iterable[Prediction],
    output: Path,
    images: Sequence[str],
    num_classes: int,
    categories: Mapping[str, str],
) -> int:
    """Write predictions as a TSV table for EcoTaxa, one row per image.

    Images that EcoTaxa cannot import are left out of the table and listed with the reason in
    the file given by :func:`unreadable_file`.

    Args:
        found: the predictions, in the order of ``images``; each is written as it arrives.
        output: the file to write; an existing file is replaced.
        images: paths of the images.
        num_classes: number of classes of the model.
        categories: class -> its category in EcoTaxa, where it differs.

    Returns:
        The number of images left out.
    """
    names, left_out = file_names(images, output), []
    found = _with_categories(found, categories)
    kinds = columns(num_classes)
    with (
        atomic_path(output) as partial,
        # EcoTaxa needs the BOM to recognise UTF-8; without it, it reads the file as Latin-1.
        open(partial, "w", newline="", encoding="utf-8-sig") as file,
    ):
        writer = csv.writer(file, "excel-tab", lineterminator="\n")
        writer.writerows([kinds.keys(), kinds.values()])
        for one, name, identity in zip(found, names, object_ids(names), strict=True):
            problem = one.problem or _refusal(name, identity)
            if problem:
                left_out.append((one.path, problem))
                continue
            writer.writerow([name, 1, identity, *_cells(one)])
    if left_out:
        with (
            atomic_path(unreadable_file(output)) as partial,
            open(partial, "w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file, lineterminator="\n").writerows([("path", "problem"), *left_out])
    else:
        unreadable_file(output).unlink(missing_ok=True)  # left by an earlier table
    return len(left_out)


def _refusal(name: str, identity: str) -> str:
    """Return why EcoTaxa would refuse an image, or "" if it would accept it."""
    if not name.lower().endswith(SUFFIXES):
        return f"EcoTaxa only accepts images of type {', '.join(SUFFIXES)}; convert it"
    if len(name) > MOST_FILE_NAME or len(identity) > MOST_ID:
        return (
            f"its path relative to the table has {len(name)} characters, but EcoTaxa accepts at "
            f"most {MOST_FILE_NAME}; move or rename it"
        )
    return ""


def _cells(one: Prediction) -> list[str | float | None]:
    """Return the row's values from the column ``object_annotation_category`` on."""
    later = list(zip(one.classes, one.confidences, strict=True))[1:]
    return [
        _one_line(one.label),
        "predicted" if one.label else "",
        one.confidences[0],
        *(cell for name, share in later for cell in (_one_line(name)[:MOST_TEXT], share)),
        _one_line(one.nearest_image)[-MOST_TEXT:],  # keep the end, with the file name
        _one_line(one.nearest_class)[:MOST_TEXT],
        one.similarity,
        REJECTED[one.rejected],
    ]


def _one_line(text: str) -> str:
    """Replace tabs and line breaks by spaces, as they separate the cells and rows of a TSV."""
    return UNWRITABLE.sub(" ", text)
