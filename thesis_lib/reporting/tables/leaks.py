"""Build tables of images that leak from one split into another."""

import pandas as pd

from thesis_lib.data.datasets import DataSet
from thesis_lib.data.leakage import ANY, TELLS_LITTLE, split_files_of
from thesis_lib.evaluation.statistics import METRICS, classification_metrics


def leak_table(leaks: pd.DataFrame, dataset: DataSet) -> pd.DataFrame:
    """Count the leaking images, with one row per kind of leak and one for all kinds together.

    The last row does not count "same name". In a data set whose files are numbered from one in
    each class (0001.png), nearly all files share their names without being the same image.

    Args:
        leaks: as returned by :func:`thesis_lib.data.leakage.find_leaks`.
        dataset: the data set.

    Returns:
        Columns kind, val images and test images (the numbers of leaking images), test images (%)
        (their share of all test images, NaN without test images) and other label (the number of
        leaking test images whose nearest counterpart has another class).
    """
    rows = []
    for kind, members in _by_kind(leaks).items():
        test = members[members["split"] == "test"]
        conflicts = test[test["class"] != test["other_class"]]
        num_images = len(split_files_of(dataset, "test"))
        leaking = test["file"].nunique()
        rows.append(
            {
                "kind": kind,
                "val images": members.loc[members["split"] == "val", "file"].nunique(),
                "test images": leaking,
                "test images (%)": (
                    round(100 * leaking / num_images, 2) if num_images else float("nan")
                ),
                "other label": conflicts["file"].nunique(),
            }
        )
    return pd.DataFrame(rows)


def _by_kind(leaks: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Group the leaks by kind, and add a group of all kinds except "same name"."""
    kinds = {kind: leaks[leaks["kind"] == kind] for kind in leaks["kind"].cat.categories}
    return kinds | {ANY: leaks[leaks["kind"] != TELLS_LITTLE]}


def metrics_without_leaks(
    predictions: pd.DataFrame, leaks: pd.DataFrame, classes: list[str]
) -> pd.DataFrame:
    """Compute the test metrics on all test images and without the leaking ones.

    As in :func:`leak_table`, "same name" has its own row but does not count in the last row.

    Args:
        predictions: columns path (relative to the data set's folder), true, predicted.
        leaks: as returned by :func:`thesis_lib.data.leakage.find_leaks`.
        classes: all classes of the data set. The macro means in every row are over all of them;
            a class without a remaining image counts as 0.

    Returns:
        Columns test images ("all", then "without <kind>" for each kind that occurs in the test
        split, and last "without any leak"), images, classes (the number of classes with a
        remaining image), and for each metric its value, ``<metric>_low`` and ``<metric>_high``
        as fractions, NaN if no image remains.
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
