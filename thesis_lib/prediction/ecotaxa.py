"""Predictions as a table that EcoTaxa imports with the images (https://ecotaxa.obs-vlfr.fr).

Its rules are those of its import page (ecotaxa_front: appli/templates/jobs/
import_create_shared_doc.html) and of its code (ecotaxa_back: py/BO/Bundle.py, BO/TSVFile.py,
BO/Mappings.py, BO/Image.py, DB/Object.py, DB/Image.py).
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from thesis_lib.data.images import UNWRITABLE
from thesis_lib.prediction.predictions import Prediction, ranked
from thesis_lib.system.files import atomic_path

# Bundle.TSV_FILTERS: what EcoTaxa takes for a table, in a folder of images or below it.
TABLE_NAME = re.compile(r"ecotaxa.*\.(tsv|txt)")
MOST_ID = 255  # characters of object_id (ObjectHeader.orig_id)
MOST_FILE_NAME = 255  # characters of img_file_name (Image.orig_file_name)
MOST_TEXT = 250  # characters of a free text column (ObjectFields.t01 to t20)
# Image.SUPPORTED_FORMATS
SUFFIXES = (".gif", ".jpeg", ".jpg", ".png")
TEXT, NUMBER = "[t]", "[f]"


def columns(classes: int) -> dict[str, str]:
    """The columns and what the row of types says of them.

    A category must come with a status. Of a prediction EcoTaxa keeps neither person nor time of
    the annotation, and notes its own (TSVFile.ensure_consistent_fields); so there are none. From
    ``object_confidence`` on they are free columns, of which a project can have 500 numbers and 20
    texts: truth is a number, which leaves more texts to others.
    """
    (_, confidence), *later = ranked(classes)
    free = {confidence: NUMBER}
    for name, its_confidence in later:
        free |= {name: TEXT, its_confidence: NUMBER}
    free |= {
        "nearest_image": TEXT,
        "nearest_class": TEXT,
        "similarity": NUMBER,
        "looks_unlike": NUMBER,
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
    """The images' paths from the table's folder, from which EcoTaxa takes them."""
    folder = os.path.abspath(output.parent)
    return [Path(os.path.relpath(image, folder)).as_posix() for image in images]


def object_ids(names: Sequence[str]) -> list[str]:
    """Of each image's path its stem; where two agree in that the path itself.

    EcoTaxa takes images of one id for views of one organism.
    """
    stems = [PurePosixPath(name).stem for name in names]
    times = Counter(stems)
    # A stem holds no slash; so no path is the stem of another image.
    paths = (name if "/" in name else f"./{name}" for name in names)
    return [stem if times[stem] == 1 else path for stem, path in zip(stems, paths, strict=True)]


def import_hints(images: Sequence[str], output: Path) -> list[str]:
    """What to do before EcoTaxa can import the table, a line each."""
    hints = []
    if not TABLE_NAME.fullmatch(output.name):
        hints.append(
            f"EcoTaxa reads tables named ecotaxa*.tsv alone: rename {output.name} before you "
            f"import it, such as to ecotaxa_{output.stem}.tsv"
        )
    outside = [name for name in file_names(images, output) if name.startswith("../")]
    if outside:
        hints.append(
            f"{len(outside):,} images do not lie below the table's folder {output.parent}/, with "
            "which EcoTaxa imports them: write the table above them"
        )
    return hints


def unreadable_file(output: Path) -> Path:
    """The CSV beside the table that lists the images which cannot be imported."""
    return output.with_name(f"{output.name}.unreadable.csv")


def write_ecotaxa(
    found: Iterable[Prediction], output: Path, images: Sequence[str], classes: int
) -> int:
    """Write predictions as a TSV for EcoTaxa, a row an image as they come.

    Images that cannot be imported go to :func:`unreadable_file`, with the reason.

    Args:
        found: the predictions, in the order of the images.
        output: the file; one that is there is replaced.
        images: their paths.
        classes: how many the model tells apart.

    Returns:
        How many images were left out.
    """
    names, left_out = file_names(images, output), []
    kinds = columns(classes)
    with (
        atomic_path(output) as partial,
        # The BOM tells EcoTaxa that it is UTF-8; without it, it would read latin-1.
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
        unreadable_file(output).unlink(missing_ok=True)  # of a table before
    return len(left_out)


def _refusal(name: str, identity: str) -> str:
    """Why EcoTaxa would refuse an image; "" where it takes it."""
    if not name.lower().endswith(SUFFIXES):
        return f"EcoTaxa takes images of the kinds {', '.join(SUFFIXES)} alone; convert it"
    if len(name) > MOST_FILE_NAME or len(identity) > MOST_ID:
        return (
            f"its path from the table has {len(name)} characters, EcoTaxa takes "
            f"{MOST_FILE_NAME}; move or rename it"
        )
    return ""


def _cells(one: Prediction) -> list[str | float | None]:
    """The values from ``object_annotation_category`` on."""
    first, *later = zip(one.classes, one.confidences, strict=True)
    unlike = None if one.looks_unlike is None else int(one.looks_unlike)
    return [
        _one_line(first[0]),
        "predicted",
        first[1],
        *(cell for name, share in later for cell in (_one_line(name)[:MOST_TEXT], share)),
        _one_line(one.nearest_image)[-MOST_TEXT:],  # of a long path the end tells more
        _one_line(one.nearest_class)[:MOST_TEXT],
        one.similarity,
        unlike,
    ]


def _one_line(text: str) -> str:
    """Text without tabs and line ends, which divide cells and rows."""
    return UNWRITABLE.sub(" ", text)
