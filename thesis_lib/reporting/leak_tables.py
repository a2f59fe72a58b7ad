"""Tables of images that leak from one split into another."""

import pandas as pd

from thesis_lib.data.datasets import DataSet
from thesis_lib.data.leakage import ANY, TELLS_LITTLE, split_files_of
from thesis_lib.evaluation.metrics import METRICS, classification_metrics


def leak_table(leaks: pd.DataFrame, dataset: DataSet) -> pd.DataFrame:
    """How many images leak: a row a kind that was looked for, and one for any of them.

    The last row passes "same name" over, which tells little: in a data set whose files are
    counted anew in each class (0001.png), it holds for nearly all of them.

    Returns:
        kind, val images, test images (how many leak), test images (%) (of all of them, NaN
        where there are none), other label (the test images among them whose nearest counterpart
        has another class).
    """
    rows = []
    for kind, members in _by_kind(leaks).items():
        test = members[members["split"] == "test"]
        conflicts = test[test["class"] != test["other_class"]]
        images = len(split_files_of(dataset, "test"))
        leaking = test["file"].nunique()
        rows.append(
            {
                "kind": kind,
                "val images": members.loc[members["split"] == "val", "file"].nunique(),
                "test images": leaking,
                "test images (%)": round(100 * leaking / images, 2) if images else float("nan"),
                "other label": conflicts["file"].nunique(),
            }
        )
    return pd.DataFrame(rows)


def _by_kind(leaks: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each kind that was looked for, and of any that tells something."""
    kinds = {kind: leaks[leaks["kind"] == kind] for kind in leaks["kind"].cat.categories}
    return kinds | {ANY: leaks[leaks["kind"] != TELLS_LITTLE]}


def metrics_without_leaks(
    predictions: pd.DataFrame, leaks: pd.DataFrame, classes: list[str]
) -> pd.DataFrame:
    """The test metrics over all images, without those that leak in one way, and in any.

    "Same name" has its row but no part in the last one, as in :func:`leak_table`.

    Args:
        predictions: columns path (below the data set's folder), true, predicted.
        leaks: as of :func:`find_leaks`.
        classes: all classes of the data set. The macro means are over all of them in every
            row, with 0 for a class that has no image left.

    Returns:
        test images ("all", then "without <kind>" for each kind that occurs in test, at last
        "without any leak"), images,
        classes (those with an image left), and for each metric its value, ``<metric>_low`` and
        ``<metric>_high``: fractions, NaN where no image is left.
    """
    rows = [_metrics_row("all", predictions, classes)]
    for kind, members in _by_kind(leaks).items():
        leaking = predictions["path"].isin(members["file"])
        if leaking.any():
            name = "any leak" if kind == ANY else kind
            rows.append(_metrics_row(f"without {name}", predictions[~leaking], classes))
    return pd.DataFrame(rows)


def _metrics_row(name: str, predictions: pd.DataFrame, classes: list[str]) -> dict:
    row = {
        "test images": name,
        "images": len(predictions),
        "classes": predictions["true"].nunique(),
    }
    columns = [name + end for name in METRICS for end in ("", "_low", "_high")]
    if predictions.empty:
        return row | dict.fromkeys(columns, float("nan"))
    result = classification_metrics(predictions["true"], predictions["predicted"], classes)
    values = [value for name in METRICS for value in (result[name], *result[f"{name}_interval"])]
    return row | dict(zip(columns, values, strict=True))
