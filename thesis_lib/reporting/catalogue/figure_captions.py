"""Write the captions of the chapter's figures from the results that they show.

Most functions are named after the figure whose caption they write.
"""

import math
from collections.abc import Callable

from thesis_lib.config import RunConfig
from thesis_lib.data.framing import MOSTLY_VISIBLE, visible_shares
from thesis_lib.methods import HEADS, LINEAR, METHODS, REGIONS, UNTRAINED
from thesis_lib.reporting.results import Results
from thesis_lib.reporting.tables.class_f1 import MOST_RUNS
from thesis_lib.reporting.tables.published import published_lookup
from thesis_lib.reporting.tables.retrieval import CHOSEN_ON
from thesis_lib.reporting.tables.runs import percent, percent_with_interval, weights_words
from thesis_lib.runs.artifacts import read_metrics, read_probe
from thesis_lib.system.files import read_json

PUBLISHED_LOOKUP = (
    " Published: ResNet50, measured on the test images, on which its authors also selected the "
    "threshold."
)

SPLITS = (
    "Test accuracy and macro F1 of each configuration on several splits of the same images: every "
    "split (dots), and their mean with its 95 % interval over splits (diamonds). With a single "
    "split of a kind, the interval is that over its seeds and test images."
)
EMBEDDING = (
    "t-SNE projection of the backbone's features of the test images ({run}). Points that are close "
    "together have similar features; distances between groups and the sizes of groups have no "
    "meaning."
)
LEARNING_CURVE = (
    "Accuracy and macro F1 on the validation images against the number of labelled images per "
    "class on which the head was trained, with 95 % intervals over random choices of the images "
    "and over validation images ({run}). The backbone is the same throughout."
)
OOD = (
    "Out-of-distribution detection of images whose classes were left out of the look-up table and "
    "a linear head, by three scores ({run}). Each mark is a group of classes that was left out; "
    "the line is the mean over the groups."
)


def _run_words(results: Results) -> str:
    """Describe a run by all that its name tells, and by the weights that it started from."""
    config = results.run.config
    words = [config.backbone, f"batch size {config.batch_size}", f"seed {config.seed}"]
    if config.method == REGIONS:
        words = ["region properties", f"seed {config.seed}"]
    elif config.method != RunConfig.method:
        words.append(config.method)
    if config.head != LINEAR:
        words.append(HEADS[config.head])
    if config.tag:
        words.append(config.tag)
    if config.weights:
        words.append(f"weights: {weights_words(results.run)}")
    return ", ".join(words)


def views(results: Results) -> str:
    views = "Random views" if results.run.config.views > 1 else "One random view each"
    how = {
        "pad": "padded to a square with the color of its border",
        "crop": "the center crop",
    }[results.config.fit]
    if results.config.method == REGIONS:
        return (
            "Some training images, and the organism found in each, whose region properties are "
            "measured (evaluation)."
        )
    seen = "" if results.config.method in UNTRAINED else ", as the backbone sees them in epoch 1"
    return f"{views} of some training images{seen}, and the evaluation view ({how})."


def visible_share(results: Results) -> str:
    shares = visible_shares(results.statistics.readable_images)
    few = {fit: int((share < MOSTLY_VISIBLE).sum()) for fit, share in shares.items()}
    half = int((shares["crop"] < 0.5).sum())
    return (
        f"Share of each image's area that the evaluation view shows. With fit = pad, it shows "
        f"less than {MOSTLY_VISIBLE:.0%} of {few['pad']:,} of the {len(shares['pad']):,} images; "
        f"with fit = crop, of {few['crop']:,}, and less than half of {half:,} (of a square image, "
        "the center crop shows 77%)."
    ).replace("%", " %")


def size_spectrum(results: Results) -> str:
    dataset = results.dataset
    images = sum(map(len, dataset.splits.values()))
    return (
        f"Sizes of the organisms of each class: median and 5 % to 95 % quantiles of the major axis "
        f"of the ellipse with an organism's area and second moments, measured on "
        f"{len(dataset.major_axes):,} of {images:,} images."
    )


def pretraining(results: Results) -> str:
    run, loss = results.run, read_metrics(results.run)[-1]["loss"]
    caption = (
        f"{run.config.loss_name} and learning rate during pretraining ({_run_words(results)})."
    )
    if run.probe_file.is_file():
        first = read_probe(run)["checkpoint"].min()
        caption += f" The checkpoints from epoch {first} on were probed (shaded)."
    return caption if math.isnan(loss) else f"{caption} The final loss is {loss:.3f}."


def checkpoint_accuracy(results: Results) -> str:
    selection = read_json(results.run.selection_file)
    interval = percent_with_interval(selection["val_accuracy"], selection["val_accuracy_interval"])
    against, head = selection["against_last"], HEADS[results.config.head]
    several = len(selection["probed"]) > 1
    chosen = " As the highest of several, it is too high on average." if several else ""
    return (
        f"Validation accuracy of the {head} for each checkpoint, with 95 % Wilson intervals "
        f"({_run_words(results)}). The selected checkpoint is epoch {selection['checkpoint']}, "
        f"with an accuracy of {interval} %: {against}.{chosen}"
    )


def head_curves(results: Results) -> str:
    selection = read_json(results.run.selection_file)
    return (
        f"Training of the linear heads ({_run_words(results)}). The head of checkpoint "
        f"{selection['checkpoint']} reached its highest validation accuracy at head epoch "
        f"{selection['head_epoch']}."
    )


def _accuracy(results: Results) -> str:
    test = read_json(results.run.test_file)
    shown = percent_with_interval(test["accuracy"], test["accuracy_interval"])
    return f"accuracy {shown} % on {test['n']:,} images"


def confusion(unit: str) -> Callable[[Results], str]:
    """Return the caption of a confusion matrix whose cells are given in a unit."""
    return lambda results: (
        f"Confusion matrix on the test set, {unit} ({_run_words(results)}); {_accuracy(results)}."
    )


def class_f1(results: Results) -> str:
    if results.part == "comparison":
        of = f"for the {MOST_RUNS} runs with the highest accuracy, or all if there are fewer"
    else:
        of = f"({_run_words(results)})"
    return (
        f"F1 of each class on the test images with its 95 % interval {of}. The class with the "
        "lowest mean F1 is on top."
    )


def reliability(results: Results) -> str:
    test = read_json(results.run.test_file)
    what = (
        f"Reliability diagram on the test set: accuracy against confidence "
        f"({_run_words(results)}). The expected calibration error is "
        f"{percent(test['calibration_error'])} percentage points"
    )
    if test["why_unscaled"]:
        return f"{what}. The confidence is not scaled: {test['why_unscaled']}."
    text = (
        f"{what} before and "
        f"{percent(test['calibration_error_scaled'])} after temperature scaling, with a "
        f"temperature of {test['temperature']:.2f} fitted on the validation images."
    )
    if test["calibration_error_scaled"] > test["calibration_error"]:
        text += " Scaling helped on the validation images, but raised the error on the test images."
    return text


def rejection(results: Results) -> str:
    return (
        "Accuracy of the test images that are kept if those with the lowest calibrated confidence "
        f"are rejected, against their share ({_run_words(results)}). The oracle rejects every "
        "mistake first. The dots are at the thresholds that reach the wanted precision on the "
        "validation images."
    )


def mistakes(results: Results) -> str:
    wrong = int((results.predictions["true"] != results.predictions["predicted"]).sum())
    return (
        f"The misclassified test images with the highest confidence, out of {wrong:,} "
        f"misclassified images ({_run_words(results)})."
    )


def runs_accuracy(results: Results) -> str:
    shown = sum(pair.is_shown for pair in results.pairs)
    return (
        "Test accuracy of all runs with 95 % Wilson intervals. The accuracies of "
        f"{shown} of {len(results.pairs)} pairs of runs differ significantly (exact McNemar test, "
        "Holm-adjusted p < 0.05)."
    )


def retrieval_curve(results: Results) -> str:
    choice = read_json(results.run.table_choice_file)
    kept = 100 * choice["images"] / choice["of_images"]
    published = "" if published_lookup(results.run).empty else PUBLISHED_LOOKUP
    return (
        "Accuracy, size and search time of the look-up table against the pruning threshold, on "
        f"{CHOSEN_ON[choice['chosen_on']]} ({_run_words(results)}). The selected threshold, "
        f"{choice['threshold']:.2f}, keeps {choice['images']:,} of {choice['of_images']:,} images "
        f"({kept:.1f} %).{published}"
    )


def nearest_images(results: Results) -> str:
    num_images = len(results.misleading)
    return (
        "Test images (left) whose nearest image in the look-up table (right) has another class: "
        f"the most similar pairs out of {num_images:,} ({_run_words(results)})."
    )


def loss_curves(method: str) -> Callable[[Results], str]:
    return lambda results: (
        f"{METHODS[method]} of all runs, smoothed. Losses of runs with different batch sizes are "
        "not comparable."
    )


def fixed(text: str) -> Callable[[Results], str]:
    """Return a caption that is the same for all results."""
    return lambda results: text


def of_run(text: str) -> Callable[[Results], str]:
    """Return a caption in which ``{run}`` stands for the run's backbone, batch size and seed."""
    return lambda results: text.format(run=_run_words(results))
