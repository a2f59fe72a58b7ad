"""Figures of training: pretraining losses, and linear probes of the checkpoints."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from thesis_lib.figures.axes import legend, percent_ticks, plain_log_ticks, whole_numbers
from thesis_lib.figures.layout import subplots
from thesis_lib.figures.style import TICK, run_color, run_line_style

ALIKE_MARKERS = "osD^v"  # for further runs with the same backbone and batch size
METHOD_MARKERS = "osD^v"
# Runs without training: distance between two, and from the middle, as shares of their place.
APART, FARTHEST = 0.12, 0.3


@dataclass(frozen=True)
class Checkpoints:
    """The epochs of a run's checkpoints.

    ``saved``: epochs of all saved checkpoints; ``probed_from``: the first one that is probed;
    ``plateau``: epoch at which the loss levels off, or None if it does not.
    """

    saved: Sequence[int]
    probed_from: int
    plateau: int | None


def pretraining(
    metrics: pd.DataFrame, checkpoints: Checkpoints, color: str, loss_name: str
) -> Figure:
    """Plot the pretraining loss and, below it, the learning rate; mark the saved checkpoints.

    If no loss was recorded, the figure says so.

    metrics: columns epoch, loss, smoothed (the smoothed loss), learning_rate; color: of the loss
    curve; loss_name: label of the loss axis.
    """
    smoothed, plateau = metrics["smoothed"], checkpoints.plateau
    probed_from = checkpoints.probed_from
    figure, (loss, rate) = subplots(90, nrows=2, sharex=True, height_ratios=[3, 1])
    epochs, saved = metrics["epoch"], np.asarray(checkpoints.saved)
    if metrics["loss"].notna().any():
        thin = {"alpha": 0.35, "linewidth": 0.6}
        loss.plot(epochs, metrics["loss"], color=color, **thin, label="each epoch")
        loss.plot(epochs, smoothed, color=color, label="smoothed")
    else:
        smoothed = np.zeros(len(epochs))
        middle = {"transform": loss.transAxes, "ha": "center", "va": "bottom"}
        loss.text(0.5, 0.6, "imported checkpoints; their loss was not recorded", **middle)
        loss.set_yticks([])
    heights, probed = np.interp(saved, epochs, smoothed), saved >= probed_from
    dots: dict[str, Any] = {"color": color, "linestyle": "none", "marker": "o"}
    for these, fill, label in (~probed, "none", "saved"), (probed, "full", "saved, to be probed"):
        if these.any():
            loss.plot(saved[these], heights[these], **dots, fillstyle=fill, label=label)
    for panel in (loss, rate):
        if plateau is not None:
            panel.axvline(plateau, color="0.3", linewidth=0.8, linestyle="dotted")
        if probed.any():
            panel.axvspan(probed_from, saved.max(), color="0.93", zorder=0)
    if plateau is not None:
        early = plateau < (epochs.min() + epochs.max()) / 2
        loss.annotate(
            f"plateau: epoch {plateau}",
            (plateau, 1),
            xycoords=loss.get_xaxis_transform(),
            size=TICK,
            ha="left" if early else "right",
            va="bottom",
        )
    rate.plot(epochs, metrics["learning_rate"], color="0.3", marker="o" * (len(epochs) == 1))
    rate.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    rate.xaxis.set_major_locator(whole_numbers())
    loss.set_ylabel(loss_name)
    figure.align_ylabels()
    legend(figure, loss, "upper")
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
    axes.set_ylabel("test accuracy (95 % interval)")
    plain_log_ticks(axes.xaxis, 4)
    ticks = [tick for tick in axes.get_xticks() if tick > 2 * left]
    axes.set_xticks([left, *ticks], ["none", *(f"{tick:,g}" for tick in ticks)])
    axes.minorticks_off()  # the axis is interrupted between "none" and the hours
    percent_ticks(axes.yaxis)
    legend(figure, axes, "lower")
    return figure


def checkpoint_accuracy(probe: pd.DataFrame, chosen: int, color: str, head: str) -> Figure:
    """Plot the validation accuracy of the head for each checkpoint.

    probe: columns checkpoint (epoch), val_accuracy, val_accuracy_low, val_accuracy_high and
    optionally knn_accuracy (fractions); chosen: epoch of the chosen checkpoint; head: its name.
    """
    figure, axes = subplots(75)
    probe = probe.sort_values("checkpoint")
    x, low, high = (probe[c] for c in ("checkpoint", "val_accuracy_low", "val_accuracy_high"))
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0, label="95 % interval")
    axes.vlines(x, low, high, color=color, alpha=0.4, linewidth=0.8)  # visible even for one point
    axes.plot(x, probe["val_accuracy"], color=color, marker="o", label=head)
    if "knn_accuracy" in probe:
        style: dict[str, Any] = {
            "color": "0.3",
            "marker": "s",
            "markersize": 3,
            "linestyle": "dashed",
        }
        axes.plot(x, probe["knn_accuracy"], **style, label="nearest neighbour (cosine)")
    best = probe[probe["checkpoint"] == chosen]
    star = {"linestyle": "none", "marker": "*", "markersize": 11, "markeredgecolor": "black"}
    label = f"chosen: epoch {chosen}, {best['val_accuracy'].item():.2%}".replace("%", " %")
    axes.plot(best["checkpoint"], best["val_accuracy"], color=color, label=label, **star)
    axes.set(xlabel="checkpoint (epoch)", ylabel="validation accuracy")
    axes.xaxis.set_major_locator(whole_numbers())
    if len(probe) == 1:  # around epoch 0, the axis would show hundredths of an epoch
        axes.set_xticks(x)
    percent_ticks(axes.yaxis)
    legend(figure, axes, "upper")
    return figure


def head_curves(curves: pd.DataFrame, chosen: int) -> Figure:
    """Plot the training loss and validation accuracy of each checkpoint's linear head per epoch.

    curves: columns checkpoint (epoch), head_epoch, train_loss, val_accuracy (fraction);
    chosen: epoch of the chosen checkpoint, drawn in black.
    """
    figure, panels = subplots(68, ncols=2)
    checkpoints = np.sort(curves["checkpoint"].unique())
    colors = plt.cm.ScalarMappable(Normalize(checkpoints[0], checkpoints[-1]), "crest")
    for checkpoint, rows in curves.groupby("checkpoint"):
        style: dict[str, Any] = {"color": colors.to_rgba(checkpoint), "linewidth": 0.8}
        if checkpoint == chosen:
            style = {"color": "black", "label": f"chosen: epoch {chosen}", "zorder": 3}
        for panel, column in zip(panels, ("train_loss", "val_accuracy"), strict=True):
            panel.plot(rows["head_epoch"], rows[column], **style)
    for panel, label in zip(panels, ("training loss", "validation accuracy"), strict=True):
        panel.set(xlabel="head epoch", ylabel=label)
        panel.xaxis.set_major_locator(whole_numbers())
    percent_ticks(panels[1].yaxis)
    _checkpoint_bar(figure, panels, colors)
    legend(figure, panels[0], "upper")
    return figure


def head_learning_rates(curves: pd.DataFrame, chosen: int) -> Figure:
    """Plot the best validation accuracy of each checkpoint's linear head against its learning rate.

    curves: columns checkpoint (epoch), head_learning_rate, val_accuracy (fraction); chosen:
    epoch of the chosen checkpoint, drawn in black.
    """
    figure, axes = subplots(75)
    best = curves.groupby(["checkpoint", "head_learning_rate"])["val_accuracy"].max().unstack(0)
    colors = plt.cm.ScalarMappable(Normalize(best.columns[0], best.columns[-1]), "crest")
    for checkpoint in best.columns:
        style: dict[str, Any] = {
            "color": colors.to_rgba(checkpoint),
            "linewidth": 0.8,
            "markersize": 3,
        }
        if checkpoint == chosen:
            style = {"color": "black", "label": f"chosen: epoch {chosen}", "zorder": 3}
        axes.plot(best.index, best[checkpoint], marker="o", **style)
    axes.set(xlabel="learning rate of the linear head", ylabel="validation accuracy")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    axes.xaxis.set_minor_formatter("")
    percent_ticks(axes.yaxis)
    _checkpoint_bar(figure, axes, colors)
    legend(figure, axes, "upper")
    return figure


def _checkpoint_bar(figure: Figure, axes: Any, colors: plt.cm.ScalarMappable) -> None:
    """Add a colour bar of checkpoint epochs if there is more than one checkpoint."""
    if colors.norm.vmin < colors.norm.vmax:
        bar = figure.colorbar(colors, ax=axes, label="checkpoint (epoch)", aspect=30, pad=0.02)
        bar.locator = whole_numbers()
        bar.outline.set_visible(False)
