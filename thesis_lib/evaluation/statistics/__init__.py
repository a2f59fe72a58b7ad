"""Compute metrics from predictions, their 95 % intervals, and comparisons of runs."""

from thesis_lib.lazy import face

HOMES = {
    "LARGE": "metrics",
    "METRICS": "metrics",
    "Comparison": "comparison",
    "classification_metrics": "metrics",
    "compare_runs": "comparison",
    "compare_with_head": "comparison",
    "comparison_matrix": "comparison",
    "comparison_table": "comparison",
    "confusion_counts": "metrics",
    "large_class_metrics": "metrics",
    "metrics_by_size": "metrics",
    "most_confused": "metrics",
    "per_class_table": "metrics",
    "worst_mistakes": "metrics",
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
