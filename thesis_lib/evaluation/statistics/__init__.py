"""Compute metrics, their 95 % intervals, and comparisons of runs and of seeds."""

from thesis_lib.lazy import face

HOMES = {
    "ENOUGH": "seeds",
    "LARGE": "metrics",
    "METRICS": "metrics",
    "Comparison": "comparison",
    "SeedComparison": "seeds",
    "Summary": "seeds",
    "by_configuration": "seeds",
    "classification_metrics": "metrics",
    "compare_configurations": "seeds",
    "compare_runs": "comparison",
    "compare_with_head": "comparison",
    "comparison_matrix": "comparison",
    "comparison_table": "comparison",
    "confusion_counts": "metrics",
    "large_class_metrics": "metrics",
    "metrics_by_size": "metrics",
    "metrics_by_stratum": "strata",
    "most_confused": "metrics",
    "per_class_table": "metrics",
    "right_by_seed": "seeds",
    "summarize": "seeds",
    "worst_mistakes": "metrics",
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
