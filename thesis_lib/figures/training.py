"""Figures of training: pretraining losses, and linear probes of the checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from thesis_lib.figures.axes import legend, percent_ticks, whole_numbers
from thesis_lib.figures.layout import subplots
from thesis_lib.figures.style import TICK

# Runs without training: distance between two, and from the middle, as shares of their place.


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
