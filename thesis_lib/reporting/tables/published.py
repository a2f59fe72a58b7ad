"""Provide the published results on DYB-PlanktonNet for comparison with reproduced ones."""

from collections.abc import Sequence
from importlib.resources import files

import pandas as pd

from thesis_lib.evaluation.statistics import METRICS
from thesis_lib.methods import LINEAR
from thesis_lib.runs.artifacts import read_retrieval
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import read_json


def reproduces_dyb(runs: Sequence[RunDirectory]) -> bool:
    """Return whether the tested runs use DYB-PlanktonNet.

    They do if more than half of their classes are classes of the published data set.
    """
    tested = next((run for run in runs if is_done(run, "test")), None)
    classes = read_json(tested.test_file)["classes"] if tested else []
    known = set(published_table("classes")["class"])
    return sum(name in known for name in classes) > len(classes) / 2


def published_table(name: str) -> pd.DataFrame:
    """Load a table of published values for DYB-PlanktonNet; metrics are in percent.

    Args:
        name: "probe" (checkpoint, backbone, batch_size, val_accuracy, head_epoch), "test"
            (backbone, batch_size, backbone_epoch, head_epoch, accuracy, precision, recall, f1),
            "lookup" (threshold, the metrics, seconds_per_image, index_mib; of ResNet50) or
            "classes" (class, train, val, test).
    """
    file = {"classes": "dyb_class_counts"}.get(name, f"published_{name}")
    return pd.read_csv(files("thesis_lib.reporting") / "published" / f"{file}.csv")


def published_probe_table() -> pd.DataFrame:
    """Tabulate the published validation accuracies in the form of ``tables.probe_table``."""
    table = published_table("probe")
    table["run"] = table["backbone"] + "-bs" + table["batch_size"].astype(str) + " (published)"
    table["cell"] = table["val_accuracy"].map("{:.2f}".format) + " / "
    table["cell"] += table["head_epoch"].astype(str)
    wide = table.pivot(index="checkpoint", columns="run", values="cell")
    wide = wide.sort_index(key=lambda index: pd.to_numeric(index, errors="coerce").fillna(1e9))
    return wide.iloc[::-1].fillna("").reset_index().rename_axis(columns=None)


def is_reproduction(run: RunDirectory) -> bool:
    """Return whether a run is made as published: SupCon from random weights, and a linear head."""
    config = run.config
    return config.method == "supcon" and not config.weights and config.head == LINEAR


def reproduced_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """Tabulate published and reproduced test metrics (%), one row per result.

    Only SupCon runs from random weights with a linear head are included, as only these were
    published.
    """
    published = published_table("test").rename(columns={"backbone_epoch": "checkpoint"})
    rows = [{**row, "source": "published"} for row in published.to_dict("records")]
    for run in runs:
        if is_done(run, "test") and is_reproduction(run):
            test = read_json(run.test_file)
            row = {name: round(100 * test[name], 2) for name in METRICS}
            row |= {name: test[name] for name in ("checkpoint", "head_epoch")}
            row |= {"backbone": run.config.backbone, "batch_size": run.config.batch_size}
            rows.append(row | {"source": run.path.name})
    columns = ["backbone", "batch_size", "source", "checkpoint", "head_epoch", *METRICS]
    table = pd.DataFrame(rows)[columns].sort_values(["backbone", "batch_size"], kind="stable")
    return table.rename(columns={"batch_size": "batch size", "head_epoch": "head epoch"})


def published_lookup(run: RunDirectory) -> pd.DataFrame:
    """Return the published look-up table at each threshold if a run can be compared with it.

    It was measured with ResNet50 on the test images of DYB-PlanktonNet, on which its threshold was
    selected, too.

    Returns:
        The columns of ``retrieval.csv`` that were published: threshold, the metrics (fractions),
        seconds_per_image and index_mib; empty for other data or backbones.
    """
    curve = published_table("lookup")
    curve[list(METRICS)] /= 100
    comparable = run.config.backbone.split(".")[0] == "resnet50" and is_reproduction(run)
    return curve if comparable and reproduces_dyb([run]) else curve[:0]


def published_lookup_table(run: RunDirectory) -> pd.DataFrame:
    """Tabulate the published look-up table and a run's own, one row per threshold, in percent.

    The run's own values are those on the images on which its threshold was selected.
    """
    published = published_lookup(run)
    if published.empty:
        return published
    own = read_retrieval(run)
    own = own[own["split"] == read_json(run.table_choice_file)["chosen_on"]]
    both = published.merge(own, on="threshold", suffixes=(" (published)", ""))
    both = both.sort_values("threshold", ascending=False)
    columns = {"threshold": both["threshold"].map("{:.2f}".format)}
    for end in (" (published)", ""):
        columns |= {name + end: 100 * both[name + end] for name in METRICS}
        columns |= {f"MiB{end}": both[f"index_mib{end}"]}
    return pd.DataFrame(columns).reset_index(drop=True)
