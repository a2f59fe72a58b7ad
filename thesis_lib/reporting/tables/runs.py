"""Build the display tables of runs: probing, test metrics, calibration and cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from thesis_lib.evaluation.statistics import METRICS, Comparison
from thesis_lib.methods import REGIONS, UNTRAINED
from thesis_lib.reporting.tables.published import is_reproduction, published_table, reproduces_dyb
from thesis_lib.runs.artifacts import read_metrics, read_probe
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.plateau import smooth
from thesis_lib.runs.provenance import recorded_weights
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import read_json
from thesis_lib.system.progress import elapsed_words


def percent(fraction: float) -> str:
    """Format a fraction in percent with two decimals, without the percent sign."""
    return f"{100 * fraction:.2f}"


def percent_with_interval(fraction: float, interval: Sequence[float]) -> str:
    """Format a fraction and its 95 % interval in percent, as ``95.10 (94.57 to 95.58)``."""
    return f"{percent(fraction)} ({percent(interval[0])} to {percent(interval[1])})"


def metric_cells(found: Mapping[str, Any]) -> dict[str, str]:
    """Format each of METRICS with its interval, from the keys ``<metric>``, ``_low``, ``_high``."""
    return {
        name: percent_with_interval(found[name], (found[f"{name}_low"], found[f"{name}_high"]))
        for name in METRICS
    }


def memory_words(used_mib: int, total_mib: int) -> str:
    """Format memory use as ``11,831 of 12,288 MiB (96.28 %)``."""
    return f"{used_mib:,} of {total_mib:,} MiB ({100 * used_mib / total_mib:.2f} %)"


def run_cost(run: RunDirectory) -> str:
    """Describe the elapsed time and peak memory of a run's pretraining in one line."""
    if run.config.method in UNTRAINED:
        return "the backbone was not trained"
    metrics = pd.DataFrame(read_metrics(run))
    if not is_measured(run):
        return "cost not recorded (imported checkpoints)"
    memory = memory_words(int(metrics["peak_memory_mib"].max()), _total_memory(run))
    return f"{elapsed_words(metrics['seconds'].sum())}, {memory}"


def is_measured(run: RunDirectory) -> bool:
    """Return whether epochs were trained and all timed; imported checkpoints have no times."""
    metrics = read_metrics(run)
    timed = all(row["seconds"] >= 0 for row in metrics)
    return timed and len(metrics) >= max(1, run.config.epochs)


def _total_memory(run: RunDirectory) -> int:
    entries = read_json(run.provenance_file)
    return next(entry["memory_mib"] for entry in reversed(entries) if "memory_mib" in entry)


def probe_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Tabulate the probing results, one row per checkpoint (newest first), one column per run.

    A cell is ``validation accuracy in % / head epoch``; a star marks the selected checkpoint.
    """
    columns = {}
    for run in runs:
        if run.selection_file.is_file():
            chosen = read_json(run.selection_file)["checkpoint"]
            columns[run.path.name] = {
                int(row.checkpoint): f"{percent(row.val_accuracy)} / {row.head_epoch}"
                + (" *" if row.checkpoint == chosen else "")
                for row in read_probe(run).itertuples()
            }
    table = pd.DataFrame(columns).sort_index(ascending=False).fillna("")
    return table.rename_axis("checkpoint").reset_index()


def checkpoint_table(run: RunDirectory) -> pd.DataFrame:
    """Tabulate the probing results of one run, with the nearest-neighbour accuracy (%)."""
    table, probe = probe_table([run]), read_probe(run)
    nearest = probe.set_index("checkpoint")["knn_accuracy"].map(percent)
    return table.assign(**{"nearest neighbour": table["checkpoint"].map(nearest)})


def test_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Tabulate the test metrics (%) with 95 % intervals, one row per tested run.

    If ``choices tested`` is above 1, earlier choices were evaluated on the test set before the
    current one was made, so the test set is no longer untouched.
    """
    rows = []
    for run in runs:
        if is_done(run, "test"):
            rows.append(metrics_row(run, read_json(run.test_file)))
    return pd.DataFrame(rows)


def large_classes_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Tabulate the macro metrics (%) over the classes with enough test images, one row per run.

    Empty if all classes have enough; see
    :func:`thesis_lib.evaluation.statistics.metrics.large_class_metrics`.
    """
    rows = []
    for run in runs:
        test = read_json(run.test_file) if is_done(run, "test") else {}
        if large := test.get("large_classes"):
            metrics = {
                n: percent_with_interval(large[n], large[f"{n}_interval"]) for n in METRICS[1:]
            }
            counted = f"{large['classes']} of {len(test['classes'])}"
            rows.append({"run": run.path.name, "classes": counted} | metrics)
    return pd.DataFrame(rows)


def metrics_row(run: RunDirectory, test: dict[str, Any]) -> dict[str, Any]:
    """Build a run's table row from the content of its ``test.json`` or ``retrieval.json``."""
    row = {"run": run.path.name}
    for name in METRICS:
        row[name] = percent_with_interval(test[name], test[f"{name}_interval"])
    return row | {"n": test["n"], "choices tested": 1 + len(test["history"])}


def weights_words(run: RunDirectory) -> str:
    """Return where a run's initial weights come from, with the start of their SHA-256."""
    facts = recorded_weights(run)
    if run.config.method == REGIONS:
        return "none"
    return f"{Path(facts['source']).name} ({facts['sha256'][:8]})" if facts else "random"


def choices_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Tabulate the tested checkpoint and head and their calibration, one row per run.

    ``ECE (points)`` is the expected calibration error in percentage points, and ``scaled ECE
    (points)`` the same after temperature scaling; see
    :mod:`thesis_lib.evaluation.statistics.calibration`.
    """
    rows = []
    for run in runs:
        if is_done(run, "test"):
            test = read_json(run.test_file)
            row = {"run": run.path.name, "method": run.config.method}
            if any(other.config.weights for other in runs):
                row["weights"] = weights_words(run)
            row |= {"checkpoint": test["checkpoint"], "head epoch": test["head_epoch"]}
            row |= {
                "temperature": test["temperature"],
                "ECE (points)": 100 * test["calibration_error"],
                "scaled ECE (points)": 100 * test["calibration_error_scaled"],
            }
            rows.append(row)
    return pd.DataFrame(rows)


def head_facts(selection: dict[str, Any]) -> dict[str, Any]:
    """Return head epoch and learning rate of the chosen head, or the trees of a forest."""
    if selection["head_learning_rate"] is None:
        return {"trees of the random forest": selection["head_epoch"]}
    rate = f"{selection['head_learning_rate']:g}"
    return {"head epoch": selection["head_epoch"], "head learning rate": rate}


def selection_table(selection: dict[str, Any]) -> pd.DataFrame:
    """Show the content of ``selection.json`` as a table, one row per property."""
    accuracy = percent_with_interval(selection["val_accuracy"], selection["val_accuracy_interval"])
    facts = {
        "checkpoint (epoch)": selection["checkpoint"],
        **head_facts(selection),
        "validation accuracy (%)": accuracy,
        "validation images": f"{selection['val_images']:,}",
        "plateau of the loss (epoch)": selection["plateau"] or "none",
        "checkpoints probed": len(selection["probed"]),
        "damaged checkpoints skipped": len(selection["damaged_checkpoints"]),
        "temperature": f"{selection['temperature']:.2f}"
        + (f" ({selection['why_unscaled']})" if selection["why_unscaled"] else ""),
    }
    return pd.DataFrame(facts.items(), columns=["chosen on validation", "value"])


def shown_best(pairs: Sequence[Comparison]) -> str | None:
    """Return the run that is significantly more accurate than every other run, or None."""
    names = {name for pair in pairs for name in (pair.a, pair.b)}
    for name in sorted(names):
        own = [pair for pair in pairs if name in (pair.a, pair.b)]
        ahead = [(pair.difference > 0) == (pair.b == name) for pair in own]
        if all(pair.is_shown for pair in own) and all(ahead):
            return name
    return None


def cost_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Tabulate elapsed time, images per second and peak memory, one row per run trained here."""
    rows = []
    for run in runs:
        if is_done(run, "pretrain") and is_measured(run):
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
    """Collect the data for the figure of the pretraining losses of all runs of a method.

    Returns:
        The metrics (with a column ``smoothed``), backbone and batch size, each by run name.
    """
    ours = [run for run in runs if run.config.method == method and is_done(run, "pretrain")]
    trained = {run.path.name: run for run in ours}
    metrics = {name: pd.DataFrame(read_metrics(run)) for name, run in trained.items()}
    # The loss is unknown for checkpoints that were imported without their logs.
    metrics = {name: table for name, table in metrics.items() if table["loss"].notna().any()}
    trained = {name: trained[name] for name in metrics}
    for table in metrics.values():
        table["smoothed"] = smooth(table["loss"])
    backbones = {name: run.config.backbone for name, run in trained.items()}
    return metrics, backbones, {name: run.config.batch_size for name, run in trained.items()}


def accuracy_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Collect the data for the figure of all test accuracies, with published values.

    Returns:
        Columns run, backbone, batch_size, accuracy, low, high as fractions, and for
        DYB-PlanktonNet published, which is NaN if no result was published.
    """
    rows = []
    for run in runs:
        if is_done(run, "test"):
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
        comparable = [run.path.name for run in runs if is_reproduction(run)]
        table.loc[~table["run"].isin(comparable), "published"] = float("nan")
    return table
