"""Every table of the thesis: CSV, Markdown and booktabs LaTeX; published values."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import pandas as pd

from thesis_lib.evaluate import METRICS
from thesis_lib.files import read_json, write_csv, write_text
from thesis_lib.plateau import smooth
from thesis_lib.runs import RunDirectory
from thesis_lib.stages import is_pretrained, is_tested, read_metrics


def write_table(table: pd.DataFrame, stem: Path, caption: str, decimals: int = 2) -> list[Path]:
    """Write a table as ``stem.csv``, ``stem.md`` and ``stem.tex``.

    Args:
        table: its cells are printed as they are; numbers right-aligned in LaTeX.
        stem: path without an ending; its name is the LaTeX label, ``tab:<name>``.
        caption: LaTeX caption, plain text.
        decimals: of numbers that are not whole, in Markdown and LaTeX.
    """
    paths = [stem.with_name(stem.name + suffix) for suffix in (".csv", ".md", ".tex")]
    write_csv(paths[0], table)
    write_text(
        paths[1], _escape_markdown(table).to_markdown(index=False, floatfmt=f".{decimals}f") + "\n"
    )
    numeric = [pd.api.types.is_numeric_dtype(table[column]) for column in table.columns]
    escaped = table.rename(columns=escape_latex).map(
        lambda cell: escape_latex(cell) if isinstance(cell, str) else cell
    )
    latex = escaped.style.hide(axis="index").format(precision=decimals, na_rep="--")
    text = latex.to_latex(
        hrules=True,
        column_format="".join("r" if right else "l" for right in numeric),
        caption=escape_latex(caption),
        label=f"tab:{stem.name}",
        position="tbp",
        position_float="centering",
    )
    write_text(paths[2], text)
    return paths


def escape_latex(text: str) -> str:
    """A plain text as LaTeX prints it."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)


def _escape_markdown(table: pd.DataFrame) -> pd.DataFrame:
    return table.map(lambda cell: cell.replace("|", r"\|") if isinstance(cell, str) else cell)


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


def test_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """The thesis's second table: a row a run, test metrics in % with their 95 % intervals.

    ``choices tested`` above 1: the test set had been seen before this choice was made.
    """
    rows = []
    for run in runs:
        if is_tested(run):
            test = read_json(run.test_file)
            row = {
                "run": run.path.name,
                "method": run.config.method,
                "backbone": run.config.backbone,
                "batch size": run.config.batch_size,
                "checkpoint": test["checkpoint"],
                "head epoch": test["head_epoch"],
            }
            for name in METRICS:
                row[name] = percent_with_interval(test[name], test[f"{name}_interval"])
            rows.append(row | {"n": test["n"], "choices tested": 1 + len(test["history"])})
    return pd.DataFrame(rows)


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


def read_classes(run: RunDirectory) -> list[str]:
    """The classes of a tested run's data set, in their order."""
    return read_json(run.test_file)["classes"]


def reproduces_dyb(runs: Sequence[RunDirectory]) -> bool:
    """Whether tested runs are on DYB-PlanktonNet: most of its classes are the published ones."""
    tested = next((run for run in runs if is_tested(run)), None)
    classes = read_classes(tested) if tested else []
    known = set(published_table("classes")["class"])
    return sum(name in known for name in classes) > len(classes) / 2


def published_table(name: str) -> pd.DataFrame:
    """Published values for DYB-PlanktonNet, in percent.

    Args:
        name: "probe" (checkpoint, backbone, batch_size, val_accuracy, head_epoch), "test"
            (backbone, batch_size, backbone_epoch, head_epoch, accuracy, precision, recall, f1)
            or "classes" (class, train, val, test).
    """
    file = {"classes": "dyb_class_counts"}.get(name, f"published_{name}")
    return pd.read_csv(files("thesis_lib") / "published" / f"{file}.csv")


def published_probe_table() -> pd.DataFrame:
    """The published counterpart of :func:`probe_table`."""
    table = published_table("probe")
    table["run"] = table["backbone"] + "-bs" + table["batch_size"].astype(str) + " (published)"
    table["cell"] = table["val_accuracy"].map("{:.2f}".format) + " / "
    table["cell"] += table["head_epoch"].astype(str)
    wide = table.pivot(index="checkpoint", columns="run", values="cell")
    wide = wide.sort_index(key=lambda index: pd.to_numeric(index, errors="coerce").fillna(1e9))
    return wide.iloc[::-1].fillna("").reset_index().rename_axis(columns=None)


def reproduced_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Published and reproduced test metrics in %, a row a backbone, batch size and source.

    Of SupCon runs alone: nothing else was published.
    """
    published = published_table("test").rename(columns={"backbone_epoch": "checkpoint"})
    rows = [{**row, "source": "published"} for row in published.to_dict("records")]
    for run in runs:
        if is_tested(run) and run.config.method == "supcon":
            test = read_json(run.test_file)
            row = {name: round(100 * test[name], 2) for name in METRICS}
            row |= {name: test[name] for name in ("checkpoint", "head_epoch")}
            row |= {"backbone": run.config.backbone, "batch_size": run.config.batch_size}
            rows.append(row | {"source": run.path.name})
    columns = ["backbone", "batch_size", "source", "checkpoint", "head_epoch", *METRICS]
    table = pd.DataFrame(rows)[columns].sort_values(["backbone", "batch_size"], kind="stable")
    return table.rename(columns={"batch_size": "batch size", "head_epoch": "head epoch"})
