"""The commands that use finished runs: export, predict, chapter, report, verify.

Other packages are imported inside the functions: torch takes seconds to load, which would slow
down `thesis --help` and the answer to a misspelt run.
"""

import argparse
from typing import Any

from thesis_lib.cli.options import find_run, given_settings


def export(options: argparse.Namespace) -> int:
    """Write the selected model for use in other programs."""
    run = find_run(options)

    from thesis_lib.prediction.export import describe_export, export_run

    print(describe_export(export_run(run, options.output), run))
    return 0


def predict(options: argparse.Namespace) -> int:
    """Classify new images with a finished run or an exported model."""
    from collections import Counter

    from thesis_lib.prediction.ecotaxa import import_hints, unreadable_file, write_ecotaxa
    from thesis_lib.prediction.new_images import find_images
    from thesis_lib.prediction.predictions import (
        UNCLASSIFIED,
        UNKNOWN,
        check_output,
        choose_limits,
        counted,
        predict_images,
        write_predictions,
    )
    from thesis_lib.system import distributed

    images, output = find_images(options.images), options.output
    check_output(output, images)
    model = _finished_model(options)
    limits = choose_limits(model, options.false_positive_rate, options.wanted_precision)
    found = predict_images(model, images, limits)
    if model.table is None:
        print(
            "nearest_image and similarity stay empty, and no image is called unknown: "
            f"{model.lacking}"
        )
    if model.temperature == 1:
        print("the confidence is not calibrated: temperature scaling did not help on validation")
    counts: Counter[str] = Counter()
    if distributed.rank():  # computes its batches, which rank 0 receives and writes
        for _ in found:
            pass
        return 0
    if options.format == "csv":
        write_predictions(counted(found, counts), output, len(model.classes))
        left_out, why, where = counts["unreadable"], "could not be read", "in the column 'problem'"
    else:
        print("".join(f"{hint}\n" for hint in import_hints(images, output)), end="")
        done = counted(found, counts)
        left_out = write_ecotaxa(done, output, images, len(model.classes), model.categories)
        why, where = "cannot be imported", f"in {unreadable_file(output)}"
    if model.table is not None:
        print(
            f"unknown, as they look unlike all training images: {counts[UNKNOWN]:,} "
            f"(as would {options.false_positive_rate:.1%} of images of known classes)"
        )
    if options.wanted_precision is not None:
        print(
            f"unclassified, as their confidence is too low for a precision of "
            f"{options.wanted_precision:.1%}: {counts[UNCLASSIFIED]:,}"
        )
    problems = f"{left_out:,} {why}, listed {where}" if left_out else "all could be read"
    print(f"{output}: {counts['images']:,} images; {problems}")
    return 0


def _finished_model(options: argparse.Namespace) -> Any:
    from thesis_lib.prediction.finished_model import (
        find_export,
        load_exported_model,
        load_run_model,
    )

    folder = find_export(options.run)
    if folder is None:
        return load_run_model(find_run(options))
    return load_exported_model(folder, given_settings(options))


def chapter(options: argparse.Namespace) -> int:
    """Write the results chapter of a data set."""
    from thesis_lib.reporting.chapter import write_chapter
    from thesis_lib.reporting.report import meant_data_set
    from thesis_lib.system.paths import relative_to_root

    document, body = map(relative_to_root, write_chapter(meant_data_set(options.data)))
    print(f"{document}: compile it in its folder (pdflatex or lualatex, twice)")
    print(f"{body}: to \\input into your own thesis")
    return 0


def report(options: argparse.Namespace) -> int:
    """Make one HTML file of a data set's executed notebooks."""
    from thesis_lib.reporting.report import describe_report, meant_data_set, write_report

    print(describe_report(write_report(meant_data_set(options.data))))
    return 0


def verify(options: argparse.Namespace) -> int:
    """Compare figures and tables with the runs; return 1 if any no longer agrees, else 0."""
    from thesis_lib.reporting.verification import verify as verify_folder

    verdict = verify_folder(options.figures)
    for name in verdict.unknown:
        print(f"not checked: {name}")
    for line in verdict.differ:
        print(f"differs: {line}")
    print(f"{verdict.agree} agree, {len(verdict.differ)} differ, {len(verdict.unknown)} unknown")
    return 1 if verdict.differ else 0
