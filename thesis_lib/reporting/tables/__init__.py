"""Compute the rows of the tables, as they are shown: text and numbers in a data frame."""

from thesis_lib.lazy import face

HOMES = {
    "elsewhere_sentence": "elsewhere",
    "head_facts": "runs",
    "percent_with_interval": "runs",
    "run_cost": "runs",
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
