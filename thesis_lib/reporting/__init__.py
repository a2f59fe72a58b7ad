"""Turn results into figures, tables, LaTeX numbers, the results chapter and the HTML report.

Figures are drawn and tables are written by name: ``draw("pretraining", results)``,
``write_table("test", results)``. ``verify`` checks that they still agree with the runs.

Reads  the files of every run, and the data set if it is on this machine.
Writes ``figures/<data>/`` and ``figures/<data>/<run>/``: plots (PDF, PNG), tables (CSV, Markdown,
       LaTeX), ``numbers.tex``, ``chapter.tex``, ``report.html``.
Imports errors, methods, config, system, data, runs, figures, evaluation, workbook.
"""

from thesis_lib.lazy import face

# public name -> the module that defines it; None: the name is itself a public module
HOMES = {
    "draw": "figure_files",
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
    "run_cost": "tables.runs",
    "tables": None,
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
