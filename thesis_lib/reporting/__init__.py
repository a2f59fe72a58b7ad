"""From results to the chapter (notebook 06): figures, tables, numbers, LaTeX, report, verify.

Figures are drawn and tables written by name: ``draw("pretraining", results)``,
``write_table("test", results)``.

Reads  every run's files, and the data set where it is on this disk.
Writes ``figures/<data>/`` and ``figures/<data>/<run>/``: plots (PDF, PNG), tables (CSV, Markdown,
       LaTeX), ``numbers.tex``, ``chapter.tex``, ``report.html``.
"""

from typing import Any

from thesis_lib.lazy import public_name

# Each public name and the module that defines it; None: the whole module is public.
HOMES = {
    "draw": "catalogue.figures",
    "write_table": "catalogue.tables",
    "write_numbers": "numbers",
    "results_of_data": "results",
    "results_of_run": "results",
    "results_of_runs": "results",
    "widgets": None,
    "write_chapter": "chapter",
    "write_report": "report",
    "describe_report": "report",
    "meant_data_set": "report",
    "verify": "verification",
    "run_cost": "tables",
    "percent_with_interval": "tables",
}
__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    return public_name(__name__, HOMES, name)


def __dir__() -> list[str]:
    return __all__
