"""Define every figure of the results chapter: its name, how to draw it, and its caption."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from thesis_lib.data.datasets import sample_images
from thesis_lib.data.framing import MOSTLY_VISIBLE, visible_shares
from thesis_lib.data.leakage import example_pairs
from thesis_lib.data.loaders import example_views
from thesis_lib.evaluation.statistics import area, per_class_table, thinned, worst_mistakes
from thesis_lib.figures import class_f1 as of_class_f1
from thesis_lib.figures import confidence as of_confidence
from thesis_lib.figures import data_set as of_data
from thesis_lib.figures import results as of_results
from thesis_lib.figures import retrieval as of_retrieval
from thesis_lib.figures import runs as of_runs
from thesis_lib.figures import sizes as of_sizes
from thesis_lib.figures import training as of_training
from thesis_lib.figures.style import run_color
from thesis_lib.methods import HEADS, LINEAR, METHODS, UNTRAINED
from thesis_lib.reporting.catalogue import figure_captions as captions
from thesis_lib.reporting.results import Results
from thesis_lib.reporting.tables import runs as tables
from thesis_lib.reporting.tables.class_f1 import class_f1
from thesis_lib.reporting.tables.published import published_lookup
from thesis_lib.reporting.tables.rejection import coverage_on_test, kept_points
from thesis_lib.reporting.tables.seeds import seeds_points
from thesis_lib.reporting.tables.splits import splits_points
from thesis_lib.reporting.tables.training_worth import accuracy_against_hours, floors
from thesis_lib.runs.artifacts import (
    read_best_curves,
    read_calibration,
    read_curves,
    read_embedding,
    read_metrics,
    read_probe,
)
from thesis_lib.runs.plateau import epochs_to_probe, kept_epochs, run_plateau, smooth
from thesis_lib.system.files import read_json


@dataclass(frozen=True)
class Entry:
    """A figure of the chapter.

    ``make`` draws it from the results, or returns None if there is nothing to draw; ``caption``
    writes its caption as plain text.
    """

    make: Callable[[Results], Figure | None]
    caption: Callable[[Results], str]


def _visible_share(results: Results) -> Figure:
    shares = visible_shares(results.statistics.readable_images)
    return of_sizes.visible_share(shares, MOSTLY_VISIBLE)


def _size_spectrum(results: Results) -> Figure | None:
    lengths = results.dataset.major_axes
    if not lengths:
        return None
    table = pd.DataFrame({"file": list(lengths), "mm": list(lengths.values())})
    return of_sizes.size_spectrum(table.assign(**{"class": table["file"].str.split("/").str[1]}))


def _leaking_pairs(results: Results) -> Figure:
    return of_data.image_pairs(example_pairs(results.leaks, results.dataset), "no leaks found")


def _pretraining(results: Results) -> Figure | None:
    if results.config.method in UNTRAINED:
        return None
    run, metrics = results.run, pd.DataFrame(read_metrics(results.run))
    checkpoints = of_training.Checkpoints(
        kept_epochs(run), epochs_to_probe(run)[0], run_plateau(run)
    )
    return of_training.pretraining(
        metrics.assign(smoothed=smooth(metrics["loss"])),
        checkpoints,
        run_color(run.config.backbone),
        run.config.loss_name,
    )


def _checkpoint_accuracy(results: Results) -> Figure:
    probe, chosen = read_probe(results.run), results.selection["checkpoint"]
    color, head = run_color(results.config.backbone), HEADS[results.config.head]
    return of_training.checkpoint_accuracy(probe, chosen, color, head)


def _head_curves(results: Results) -> Figure | None:
    if results.config.head != LINEAR:
        return None
    curves = read_best_curves(results.run)
    return of_training.head_curves(curves, results.selection["checkpoint"])


def _head_learning_rates(results: Results) -> Figure | None:
    if len(results.config.head_learning_rates) == 1 or results.config.head != LINEAR:
        return None
    curves, chosen = read_curves(results.run), results.selection["checkpoint"]
    return of_training.head_learning_rates(curves, chosen)


def _confusion(normalize: bool) -> Callable[[Results], Figure]:
    return lambda r: of_results.confusion_matrix(r.confusion, r.classes, normalize=normalize)


def _per_class_f1(results: Results) -> Figure:
    true, predicted = results.predictions["true"], results.predictions["predicted"]
    table = per_class_table(true, predicted, results.classes)
    support = results.dataset.counts()["train"].loc[table["class"]].to_numpy()
    return of_results.per_class_f1(table.assign(support=support))


def _reliability(results: Results) -> Figure:
    test = read_json(results.run.test_file)
    errors = test["calibration_error"], test["calibration_error_scaled"]
    return of_confidence.reliability(read_calibration(results.run), errors)


def _rejection(results: Results) -> Figure | None:
    if results.confidences.empty:
        return None
    curve = coverage_on_test(results.confidences)
    areas = {column: area(curve, column) for column in ("accuracy", "oracle")}
    return of_confidence.rejection(thinned(curve), areas, kept_points(results.confidences))


def _worst_mistakes(results: Results) -> Figure:
    worst = worst_mistakes(results.predictions)
    images = [results.dataset.read(path) for path in worst["path"]]
    texts = [
        f"true: {row.true}\npredicted: {row.predicted}\n{100 * row.confidence:.1f} %"
        for row in worst.itertuples()
    ]
    return of_results.mistakes(images, texts)


def _embedding(results: Results) -> Figure:
    return of_results.embedding(read_embedding(results.run), results.classes)


def _retrieval_curve(results: Results) -> Figure:
    run = results.run
    selection = results.selection if run.selection_file.is_file() else {}
    return of_retrieval.retrieval_curve(
        results.retrieval,
        read_json(run.table_choice_file)["threshold"],
        run_color(run.config.backbone),
        selection.get("val_accuracy"),
        published_lookup(run),
    )


def _nearest_images(results: Results) -> Figure:
    dataset = results.dataset
    pairs = [
        (
            dataset.read(row.path),
            dataset.read(row.nearest),
            f"{row.true}\nnearest: {row.nearest_class}\ncosine {row.similarity:.3f}",
        )
        for row in results.misleading[:12].itertuples()
    ]
    return of_data.image_pairs(pairs, "for every test image, the nearest image has the right class")


def _ood(results: Results) -> Figure | None:
    return of_retrieval.ood(results.ood) if len(results.ood) else None


def _runs_accuracy(results: Results) -> Figure | None:
    accuracy = tables.accuracy_table(results.runs)
    return of_runs.runs_accuracy(accuracy) if len(accuracy) else None


def _seeds(results: Results) -> Figure | None:
    found = results.over_seeds.summaries
    return of_runs.seeds(seeds_points(found)) if found else None


def _class_f1(results: Results) -> Figure | None:
    table = class_f1(results.runs)
    return of_class_f1.class_f1(table) if len(table) else None


def _splits(results: Results) -> Figure | None:
    over = results.over_splits
    return of_runs.seeds(splits_points(over)) if over.summaries else None


def _accuracy_against_hours(results: Results) -> Figure | None:
    table = accuracy_against_hours(results.runs)
    return of_runs.accuracy_against_hours(table, floors(results.runs)) if len(table) else None


def _loss_curves(method: str) -> Callable[[Results], Figure | None]:
    def make(results: Results) -> Figure | None:
        losses = tables.loss_tables(results.runs, method)
        return of_runs.loss_curves(*losses, METHODS[method]) if losses[0] else None

    return make


FIGURES = {
    # the data set: notebook 01
    "class_counts": Entry(
        lambda r: of_data.class_counts(r.dataset.counts()),
        lambda r: f"Images per class and split of {r.config.data_name}.",
    ),
    "image_sizes": Entry(
        lambda r: of_sizes.image_sizes(r.statistics.readable_images),
        lambda r: f"Sizes of the images of {r.config.data_name}.",
    ),
    "visible_share": Entry(_visible_share, captions.visible_share),
    "size_spectrum": Entry(_size_spectrum, captions.size_spectrum),
    "sample_images": Entry(
        lambda r: of_data.sample_images(sample_images(r.dataset, num_images=5)),
        captions.fixed("Some training images of each class."),
    ),
    "leaking_pairs": Entry(
        _leaking_pairs,
        captions.fixed("Images of val or test next to their counterparts in an earlier split."),
    ),
    # one run: notebooks 02 to 05
    "views": Entry(
        lambda r: of_data.views(**example_views(r.dataset, r.config, num_images=8)), captions.views
    ),
    "pretraining": Entry(_pretraining, captions.pretraining),
    "checkpoint_accuracy": Entry(_checkpoint_accuracy, captions.checkpoint_accuracy),
    "head_curves": Entry(_head_curves, captions.head_curves),
    "head_learning_rates": Entry(
        _head_learning_rates,
        captions.of_run(
            "Validation accuracy of the linear heads against their learning rate ({run})."
        ),
    ),
    "confusion_matrix": Entry(
        _confusion(normalize=True), captions.confusion("each row in percent of its images")
    ),
    "confusion_matrix_counts": Entry(
        _confusion(normalize=False), captions.confusion("in numbers of images")
    ),
    "per_class_f1": Entry(
        _per_class_f1,
        captions.of_run(
            "F1 of each class on the test set against its number of training images ({run})."
        ),
    ),
    "reliability": Entry(_reliability, captions.reliability),
    "rejection": Entry(_rejection, captions.rejection),
    "worst_mistakes": Entry(_worst_mistakes, captions.mistakes),
    "embedding": Entry(_embedding, captions.of_run(captions.EMBEDDING)),
    "retrieval_curve": Entry(_retrieval_curve, captions.retrieval_curve),
    "nearest_images": Entry(_nearest_images, captions.nearest_images),
    "learning_curve": Entry(
        lambda r: of_results.learning_curve(r.learning_curve) if len(r.learning_curve) else None,
        captions.of_run(captions.LEARNING_CURVE),
    ),
    "ood": Entry(_ood, captions.of_run(captions.OOD)),
    # all runs: notebook 06
    "runs_accuracy": Entry(_runs_accuracy, captions.runs_accuracy),
    "seeds": Entry(
        _seeds,
        captions.fixed(
            "Test accuracy and macro F1 of each configuration: every seed (dots), and their mean "
            "with its 95 % interval over seeds and test images (diamonds). With a single seed, the "
            "interval is that over test images alone."
        ),
    ),
    "class_f1": Entry(_class_f1, captions.class_f1),
    "splits": Entry(_splits, captions.fixed(captions.SPLITS)),
    "accuracy_against_hours": Entry(
        _accuracy_against_hours,
        captions.fixed(
            "Test accuracy with 95 % Wilson intervals against the hours of training, with those of "
            "the run that the initial weights come from. Runs whose backbone was not trained on "
            "these images are at the left. The lines are the accuracies of guessing: always the "
            "most frequent class, or each class as often as it is among the training images."
        ),
    ),
    **{
        "loss_curves" if method == "supcon" else f"loss_curves_{method}": Entry(
            _loss_curves(method), captions.loss_curves(method)
        )
        for method in METHODS
    },
}
