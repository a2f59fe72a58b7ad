"""The captions of the chapter's figures, drafted from the results that they show."""

import math
from collections.abc import Callable

import pandas as pd

from thesis_lib.config import METHODS
from thesis_lib.evaluation.retrieval import CHOSEN_ON
from thesis_lib.reporting.results import Results
from thesis_lib.reporting.tables import percent, percent_with_interval
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.system.files import read_json


def _of_run(results: Results) -> str:
    config = results.run.config
    return f"{config.backbone}, batch size {config.batch_size}, seed {config.seed}"


def views(results: Results) -> str:
    views = "Random views" if results.run.config.views > 1 else "The random view"
    return f"{views} of some training images, as the backbone sees them in the first epoch."


def pretraining(results: Results) -> str:
    run, loss = results.run, read_metrics(results.run)[-1]["loss"]
    caption = f"{run.config.loss_name} and learning rate of {_of_run(results)}."
    if run.probe_file.is_file():
        first = pd.read_csv(run.probe_file)["checkpoint"].min()
        caption += f" Probed are the checkpoints from epoch {first} on (shaded)."
    return caption if math.isnan(loss) else f"{caption} The last loss is {loss:.3f}."


def checkpoint_accuracy(results: Results) -> str:
    selection = read_json(results.run.selection_file)
    interval = percent_with_interval(selection["val_accuracy"], selection["val_accuracy_interval"])
    against = selection["against_last"]
    return (
        f"Validation accuracy against the checkpoint, with Wilson's 95 % interval, of "
        f"{_of_run(results)}. Chosen is epoch {selection['checkpoint']} with {interval} %: "
        f"{against}."
    )


def head_curves(results: Results) -> str:
    selection = read_json(results.run.selection_file)
    return (
        f"Training of the linear heads of {_of_run(results)}. That of checkpoint "
        f"{selection['checkpoint']} was best at head epoch {selection['head_epoch']}."
    )


def _accuracy(results: Results) -> str:
    test = read_json(results.run.test_file)
    shown = percent_with_interval(test["accuracy"], test["accuracy_interval"])
    return f"accuracy {shown} % of {test['n']:,} images"


def confusion(unit: str) -> Callable[[Results], str]:
    return lambda results: (
        f"Confusion matrix of the test set, {unit}, of {_of_run(results)}; {_accuracy(results)}."
    )


def reliability(results: Results) -> str:
    test = read_json(results.run.test_file)
    return (
        f"Accuracy against confidence on the test set, of {_of_run(results)}. The expected "
        f"calibration error is {percent(test['calibration_error'])} points, and "
        f"{percent(test['calibration_error_scaled'])} at the temperature of "
        f"{test['temperature']:.2f} that was fitted on validation."
    )


def mistakes(results: Results) -> str:
    wrong = int((results.predictions["true"] != results.predictions["predicted"]).sum())
    return (
        f"The mistakes that were made with the greatest confidence, of {wrong:,} in all, of "
        f"{_of_run(results)}."
    )


def runs_accuracy(results: Results) -> str:
    shown = sum(pair.is_shown for pair in results.pairs)
    return (
        "Test accuracy of all runs with Wilson's 95 % interval. Of "
        f"{len(results.pairs)} pairs of runs {shown} are shown to differ."
    )


def retrieval_curve(results: Results) -> str:
    choice = read_json(results.run.table_choice_file)
    least = 100 * choice["images"] / choice["of_images"]
    return (
        f"Accuracy, size and time of the look-up table of {_of_run(results)} against the pruning "
        f"threshold, on {CHOSEN_ON[choice['chosen_on']]}. Chosen is {choice['threshold']:.2f} with "
        f"{choice['images']:,} of {choice['of_images']:,} images ({least:.1f} %)."
    )


def nearest_images(results: Results) -> str:
    images = len(results.misleading)
    return (
        "Test images beside the nearest image of the look-up table where that is of another "
        f"class, the most similar of {images:,}, of {_of_run(results)}."
    )


def loss_curves(method: str) -> Callable[[Results], str]:
    return lambda results: (
        f"{METHODS[method]} of all runs, smoothed. Losses of different batch sizes are not on one "
        "scale."
    )


def fixed(text: str) -> Callable[[Results], str]:
    return lambda results: text


def of_run(text: str) -> Callable[[Results], str]:
    """A caption that ends with the run's backbone, batch size and seed."""
    return lambda results: text.format(run=_of_run(results))
