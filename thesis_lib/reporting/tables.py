"""The rows and columns of the tables that compare runs, in the words of the thesis."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from thesis_lib.evaluation.comparison import Comparison
from thesis_lib.evaluation.metrics import METRICS
from thesis_lib.evaluation.probing import smooth
from thesis_lib.reporting.published_results import published_table, reproduces_dyb
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_pretrained, is_tested
from thesis_lib.system.files import read_json


def percent(fraction: float) -> str:
    """A fraction as the thesis prints it: two decimals, in percent, without the sign."""
    return f"{100 * fraction:.2f}"


def percent_with_interval(fraction: float, interval: Sequence[float]) -> str:
    """``95.10 (94.57 to 95.58)``: a fraction and its 95 % interval, in percent."""
    return f"{percent(fraction)} ({percent(interval[0])} to {percent(interval[1])})"


def elapsed_words(seconds: float) -> str:
    """A time as the thesis words it: ``3 d 21 h 4 min``; below an hour with seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h {minutes} min"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def memory_words(used_mib: int, total_mib: int) -> str:
    """Memory as the thesis words it: ``11,831 of 12,288 MiB (96.28 %)``."""
    return f"{used_mib:,} of {total_mib:,} MiB ({100 * used_mib / total_mib:.2f} %)"


def run_cost(run: RunDirectory) -> str:
    """Elapsed time and peak memory of a run's pretraining, in the words of the thesis."""
    metrics = pd.DataFrame(read_metrics(run))
    if not is_measured(run):
        return "cost not recorded (imported checkpoints)"
    memory = memory_words(int(metrics["peak_memory_mib"].max()), _total_memory(run))
    return f"{elapsed_words(metrics['seconds'].sum())}, {memory}"


def is_measured(run: RunDirectory) -> bool:
    """Whether every epoch of a trained run was timed; those of imported checkpoints were not."""
    metrics = read_metrics(run)
    return len(metrics) >= run.config.epochs and all(row["seconds"] >= 0 for row in metrics)


def _total_memory(run: RunDirectory) -> int:
    entries = read_json(run.provenance_file)
    return next(entry["memory_mib"] for entry in reversed(entries) if "memory_mib" in entry)


def probe_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """The thesis's first table: a row a checkpoint, newest first, a column a run.

    A cell is ``validation accuracy in % / head epoch``; the chosen one carries a star.
    """
    columns = {}
    for run in runs:
        if run.selection_file.is_file():
            chosen = read_json(run.selection_file)["checkpoint"]
            columns[run.path.name] = {
                int(row.checkpoint): f"{percent(row.val_accuracy)} / {row.head_epoch}"
                + (" *" if row.checkpoint == chosen else "")
                for row in pd.read_csv(run.probe_file).itertuples()
            }
    table = pd.DataFrame(columns).sort_index(ascending=False).fillna("")
    return table.rename_axis("checkpoint").reset_index()


def checkpoint_table(run: RunDirectory) -> pd.DataFrame:
    """:func:`probe_table` of one run, with the nearest neighbour's accuracy in % beside."""
    table, probe = probe_table([run]), pd.read_csv(run.probe_file)
    if "knn_accuracy" in probe:  # heads of earlier versions have none
        nearest = probe.set_index("checkpoint")["knn_accuracy"].map(percent)
        table["nearest neighbour"] = table["checkpoint"].map(nearest)
    return table


def test_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """The thesis's second table: a row a run, test metrics in % with their 95 % intervals.

    ``choices tested`` above 1: the test set had been seen before this choice was made.
    """
    rows = []
    for run in runs:
        if is_tested(run):
            rows.append(metrics_row(run, read_json(run.test_file)))
    return pd.DataFrame(rows)


def metrics_row(run: RunDirectory, test: dict[str, Any]) -> dict[str, Any]:
    """A run's row of a table of tests, from what ``test.json`` or ``retrieval.json`` holds."""
    row = {"run": run.path.name}
    for name in METRICS:
        row[name] = percent_with_interval(test[name], test[f"{name}_interval"])
    return row | {"n": test["n"], "choices tested": 1 + len(test["history"])}


def choices_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """A row a run: what was tested, and how far its confidence can be believed.

    ``temperature`` and the calibration errors (in points, before and after scaling) as
    :mod:`thesis_lib.evaluation.calibration` has them.
    """
    rows = []
    for run in runs:
        if is_tested(run):
            test = read_json(run.test_file)
            row = {"run": run.path.name, "method": run.config.method}
            row |= {"checkpoint": test["checkpoint"], "head epoch": test["head_epoch"]}
            row |= {
                "temperature": test["temperature"],
                "error": 100 * test["calibration_error"],
                "error, scaled": 100 * test["calibration_error_scaled"],
            }
            rows.append(row)
    return pd.DataFrame(rows)


def selection_table(selection: dict[str, Any]) -> pd.DataFrame:
    """What ``selection.json`` holds, for a reader: a row a fact."""
    accuracy = percent_with_interval(selection["val_accuracy"], selection["val_accuracy_interval"])
    facts = {
        "checkpoint (epoch)": selection["checkpoint"],
        "head epoch": selection["head_epoch"],
        "head learning rate": f"{selection['head_learning_rate']:g}",
        "validation accuracy (%)": accuracy,
        "validation images": f"{selection['val_images']:,}",
        "plateau of the loss (epoch)": selection["plateau"] or "not found",
        "checkpoints probed": len(selection["probed"]),
        "damaged checkpoints left out": len(selection["damaged_checkpoints"]),
        "temperature": f"{selection['temperature']:.2f}",
    }
    return pd.DataFrame(facts.items(), columns=["chosen on validation", "value"])


def shown_best(pairs: Sequence[Comparison]) -> str | None:
    """The run that is shown to be better than every other one; None where there is none."""
    names = {name for pair in pairs for name in (pair.a, pair.b)}
    for name in sorted(names):
        own = [pair for pair in pairs if name in (pair.a, pair.b)]
        ahead = [(pair.difference > 0) == (pair.b == name) for pair in own]
        if all(pair.is_shown for pair in own) and all(ahead):
            return name
    return None


def cost_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """A row a run trained here: elapsed time, images per second and peak memory."""
    rows = []
    for run in runs:
        if is_pretrained(run) and is_measured(run):
            metrics = pd.DataFrame(read_metrics(run))
            used = int(metrics["peak_memory_mib"].max())
            rows.append(
                {
                    "run": run.path.name,
                    "epochs": len(metrics),
                    "elapsed": elapsed_words(metrics["seconds"].sum()),
                    "images per second": round(metrics["images_per_second"].median()),
                    "peak memory": memory_words(used, _total_memory(run)),
                }
            )
    return pd.DataFrame(rows)


def loss_tables(
    runs: Sequence[RunDirectory], method: str
) -> tuple[dict[str, pd.DataFrame], dict[str, str], dict[str, int]]:
    """What the figure of all losses of a method needs: each run's metrics, backbone, batch size."""
    ours = [run for run in runs if run.config.method == method and is_pretrained(run)]
    trained = {run.path.name: run for run in ours}
    metrics = {name: pd.DataFrame(read_metrics(run)) for name, run in trained.items()}
    # Of checkpoints imported without their logs no loss is known.
    metrics = {name: table for name, table in metrics.items() if table["loss"].notna().any()}
    trained = {name: trained[name] for name in metrics}
    for table in metrics.values():
        table["smoothed"] = smooth(table["loss"])
    backbones = {name: run.config.backbone for name, run in trained.items()}
    return metrics, backbones, {name: run.config.batch_size for name, run in trained.items()}


def accuracy_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """What the figure of all runs' test accuracies needs, published values beside.

    Returns:
        run, backbone, batch_size, accuracy, low, high, published (fractions; NaN for none).
    """
    rows = []
    for run in runs:
        if is_tested(run):
            test = read_json(run.test_file)
            low, high = test["accuracy_interval"]
            rows.append(
                {
                    "run": run.path.name,
                    "backbone": run.config.backbone,
                    "batch_size": run.config.batch_size,
                    "accuracy": test["accuracy"],
                    "low": low,
                    "high": high,
                }
            )
    columns = ["run", "backbone", "batch_size", "accuracy", "low", "high"]
    table = pd.DataFrame(rows, columns=columns)
    if reproduces_dyb(runs):
        published = published_table("test").rename(columns={"accuracy": "published"})
        published = published[["backbone", "batch_size", "published"]]
        table = table.merge(published, how="left", on=["backbone", "batch_size"])
        table["published"] /= 100
        methods = {run.path.name: run.config.method for run in runs}
        table.loc[table["run"].map(methods) != "supcon", "published"] = float("nan")
    return table
