"""Figures of cosine retrieval: the pruning curve and out-of-distribution (OOD) detection."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from thesis_lib.figures.axes import legend, percent_ticks
from thesis_lib.figures.layout import subplots
from thesis_lib.figures.style import PALETTE, SPLIT_COLORS, TICK, text_width

SPLIT_WORDS = {
    "val": "validation",
    "train": "training images (leave-one-out)",
    "test": "test (not used to choose)",
}


def retrieval_curve(
    curve: pd.DataFrame,
    threshold: float,
    color: str,
    head: float | None,
    published: pd.DataFrame,
) -> Figure:
    """Plot accuracy, size and search time of a look-up table against the pruning threshold.

    curve: one row per threshold and split; columns threshold, split, accuracy, accuracy_low,
    accuracy_high (fractions), images, index_mib, seconds_per_image; threshold: the chosen one;
    head: validation accuracy of the head (fraction), or None to leave it out; published: columns
    threshold, accuracy, index_mib, seconds_per_image of a published table, or no rows.
    """
    figure, (accuracy, size, time) = subplots(125, nrows=3, sharex=True, height_ratios=[2.2, 1, 1])
    for split, points in curve.sort_values("threshold").groupby("split", sort=False):
        tested = split == "test"
        ink = SPLIT_COLORS["test"] if tested else color
        style = {"color": ink, "marker": "s" if tested else "o", "markersize": 3}
        x, low, high = (points[c] for c in ("threshold", "accuracy_low", "accuracy_high"))
        if len(points) > 1:
            accuracy.fill_between(x, low, high, color=ink, alpha=0.15, linewidth=0)
        else:
            accuracy.vlines(x, low, high, color=ink, linewidth=0.8)
        accuracy.plot(x, points["accuracy"], **style, label=SPLIT_WORDS[split])
        if not tested:
            size.plot(x, points["index_mib"], **style)
            time.plot(x, 1000 * points["seconds_per_image"], **style)
    if head is not None:
        words = "head, validation"
        accuracy.axhline(head, color="0.3", linewidth=0.8, linestyle="dashed", label=words)
    if len(published):
        values = published.assign(seconds_per_image=1000 * published["seconds_per_image"])
        columns = ("accuracy", "index_mib", "seconds_per_image")
        hollow: dict[str, Any] = {"color": "0.3", "markerfacecolor": "none", "markersize": 3}
        for panel, column in zip((accuracy, size, time), columns, strict=True):
            panel.plot(values["threshold"], values[column], "D", **hollow, label="published, test")
    for panel in (accuracy, size, time):
        panel.axvline(threshold, color="0.3", linewidth=0.8, linestyle="dotted")
    accuracy.annotate(
        f"chosen: {threshold:.2f}",
        (threshold, 1),
        xycoords=accuracy.get_xaxis_transform(),
        size=TICK,
        ha="left" if threshold < curve["threshold"].mean() else "right",
        va="bottom",
    )
    percent_ticks(accuracy.yaxis)
    time.xaxis.set_major_locator(MultipleLocator(0.05))
    accuracy.set_ylabel("accuracy")
    size.set(ylabel="size (MiB)", ylim=(0, None))
    time.set(ylabel="search\n(ms per image)", ylim=(0, None), xlabel="pruning threshold (cosine)")
    figure.align_ylabels()
    legend(figure, accuracy, "lower")
    return figure


def ood(rows: pd.DataFrame) -> Figure:
    """Plot how well each score detects images of held-out classes.

    A dot is one fold, a vertical bar the mean over the folds.

    rows: columns fold, score, auroc, fpr (fractions), as returned by
    :func:`thesis_lib.evaluation.ood.measure_ood`.
    """
    figure, panels = subplots(60, ncols=2, sharey=True)
    scores = list(dict.fromkeys(rows["score"]))
    columns = {"auroc": "AUROC", "fpr": "FPR at 95 % TPR"}
    for axes, (column, words) in zip(panels, columns.items(), strict=True):
        for place, score in enumerate(scores):
            values = rows.loc[rows["score"] == score, column]
            ink = PALETTE[place]
            axes.plot(values, [place] * len(values), "o", color=ink, alpha=0.4, markersize=4)
            axes.plot(values.mean(), place, "|", color=ink, markersize=16, markeredgewidth=2)
        axes.set(xlabel=words, ylim=(len(scores) - 0.5, -0.5))
        axes.set_yticks(range(len(scores)), scores)
        intervals = max(1, min(4, int(text_width() // 28)))  # "92.5 %" is wide
        axes.xaxis.set_major_locator(MaxNLocator(intervals))
        percent_ticks(axes.xaxis)
    return figure
