"""Figures that compare runs: accuracy, seeds, hours of training, pretraining losses."""

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from thesis_lib.figures.axes import legend, percent_ticks, plain_log_ticks, whole_numbers
from thesis_lib.figures.layout import shorten, subplots
from thesis_lib.figures.style import PALETTE, TICK, run_color, run_line_style, text_width

ALIKE_MARKERS = "osD^v"  # for further runs with the same backbone and batch size
METHOD_MARKERS = "osD^v"
# Runs without training: distance between two, and from the middle, as shares of their place.
APART, FARTHEST = 0.12, 0.3


def runs_accuracy(table: pd.DataFrame) -> Figure:
    """Plot the test accuracy of runs with 95 % intervals, with the first row on top.

    table: columns run, backbone, batch_size, accuracy, low, high (fractions), and optionally
    published (fraction or NaN), which is drawn as a hollow diamond.
    """
    figure, axes = subplots(18 + 6 * len(table))
    for i, run in enumerate(table.itertuples()):
        style: dict[str, Any] = {
            "color": run_color(run.backbone),
            "marker": run_line_style(run.batch_size)["marker"],
        }
        axes.plot([run.low, run.high], [i, i], color=style["color"])
        axes.plot(run.accuracy, i, **style, markersize=5)
    if "published" in table and table["published"].notna().any():
        hollow: dict[str, Any] = {
            "marker": "D",
            "facecolors": "none",
            "edgecolors": "black",
            "linewidths": 0.8,
        }
        rows = np.arange(len(table))
        axes.scatter(table["published"], rows, s=24, zorder=3, label="published", **hollow)
        legend(figure, axes, "upper")
    names = [shorten(run, 0.4 * text_width(), TICK) for run in table["run"]]
    axes.set_yticks(range(len(table)), names)
    axes.set(ylim=(len(table) - 0.4, -0.6), xlabel="test accuracy (95 % interval)")
    axes.tick_params(axis="y", length=0)
    percent_ticks(axes.xaxis)
    axes.xaxis.grid(True, color="0.9", linewidth=0.5)
    return figure


def seeds(table: pd.DataFrame) -> Figure:
    """Plot metrics of configurations: each seed as a dot, the mean as a diamond with its interval.

    table: one row per configuration and metric; columns configuration, metric, mean, low, high
    (fractions) and values (one per seed). The first configuration is on top.
    """
    metrics = table["metric"].drop_duplicates()
    names = table["configuration"].drop_duplicates()
    figure, panels = subplots(18 + 8 * len(names), ncols=len(metrics), sharey=True)
    for panel, metric in zip(np.atleast_1d(panels), metrics, strict=True):
        rows = table[table["metric"] == metric]
        for i, row in enumerate(rows.itertuples()):
            panel.plot([row.low, row.high], [i, i], color=PALETTE[0])
            panel.plot(row.mean, i, "D", color=PALETTE[0], markersize=5)
            dots = np.full(len(row.values), i + 0.32)
            panel.plot(row.values, dots, "o", color="0.3", markersize=2.5, alpha=0.7)
        panel.set(ylim=(len(names) - 0.4, -0.6), xlabel=f"{metric}\n(95 % interval)")
        panel.tick_params(axis="y", length=0)
        percent_ticks(panel.xaxis)
        panel.xaxis.grid(True, color="0.9", linewidth=0.5)
    shown = [shorten(name, 0.3 * text_width(), TICK) for name in names]
    np.atleast_1d(panels)[0].set_yticks(range(len(names)), shown)
    return figure


def loss_curves(
    metrics: dict[str, pd.DataFrame],
    backbones: dict[str, str],
    batch_sizes: dict[str, int],
    loss_name: str,
) -> Figure:
    """Plot the pretraining loss of several runs.

    The colour shows the backbone and the line style the batch size. Runs with the same backbone
    and batch size get different markers.

    metrics: run -> table with columns epoch, loss, and optionally smoothed (the smoothed loss),
    which is then drawn as the main line over a pale line of the loss; backbones and batch_sizes:
    run -> value; loss_name: label of the loss axis.
    """
    figure, axes = subplots(95)
    drawn: Counter[tuple[str, int]] = Counter()
    for run, table in metrics.items():
        style: dict[str, Any] = {"linestyle": run_line_style(batch_sizes[run])["linestyle"]}
        color = run_color(backbones[run])
        line = table["loss"]
        if "smoothed" in table:
            axes.plot(table["epoch"], line, color=color, alpha=0.3, linewidth=0.6, zorder=1)
            line = table["smoothed"]
        alike = drawn[backbones[run], batch_sizes[run]]
        if alike:
            marker = ALIKE_MARKERS[(alike - 1) % len(ALIKE_MARKERS)]
            style |= {"marker": marker, "markevery": max(1, len(table) // 10)}
        drawn[backbones[run], batch_sizes[run]] += 1
        axes.plot(table["epoch"], line, color=color, label=run, **style)
    axes.set(xlabel="epoch", ylabel=loss_name)
    axes.xaxis.set_major_locator(whole_numbers())
    legend(figure, axes, "lower")
    return figure


def accuracy_against_hours(table: pd.DataFrame, floors: dict[str, float]) -> Figure:
    """Plot the test accuracy of runs with 95 % intervals against their hours of training.

    The colour shows the backbone and the marker the method. Runs without training are at the
    left. Lines show what guessing would reach.

    table: columns run, backbone, method, hours (0 without training), accuracy, low and high
    (fractions); floors: name of a way to guess -> its accuracy (fraction).
    """
    figure, axes = subplots(75)
    trained = table["hours"][table["hours"] > 0]
    shortest, longest = (trained.min(), trained.max()) if len(trained) else (0.1, 1.0)
    left = shortest / 4
    markers = dict(zip(table["method"].drop_duplicates(), METHOD_MARKERS, strict=False))
    places = table["hours"].where(table["hours"] > 0)
    untrained = places.isna()
    num_beside = untrained.sum()
    reach = min(APART * (num_beside - 1) / 2, FARTHEST)
    # Beside each other, so that none hides another.
    places[untrained] = left * (1 + np.linspace(-reach, reach, num_beside))
    for run, hours in zip(table.itertuples(), places, strict=True):
        color = run_color(run.backbone)
        axes.plot([hours, hours], [run.low, run.high], color=color)
        axes.plot(hours, run.accuracy, markers[run.method], color=color, markersize=5)
    for (name, accuracy), style in zip(floors.items(), ("dashed", "dotted"), strict=False):
        axes.axhline(accuracy, color="0.4", linewidth=0.8, linestyle=style, label=name)
    for method, marker in markers.items():
        axes.plot([], [], marker, color="0.4", label=method)
    for backbone in table["backbone"].drop_duplicates():
        axes.plot([], [], color=run_color(backbone), label=backbone)
    axes.set(xscale="log", xlim=(left / 1.6, longest * 1.6), xlabel="hours of training")
    axes.set_ylabel("test accuracy\n(95 % interval)")
    plain_log_ticks(axes.xaxis, 4)
    ticks = [tick for tick in axes.get_xticks() if tick > 2 * left]
    axes.set_xticks([left, *ticks], ["none", *(f"{tick:,g}" for tick in ticks)])
    axes.minorticks_off()  # the axis is interrupted between "none" and the hours
    percent_ticks(axes.yaxis)
    legend(figure, axes, "lower")
    return figure
