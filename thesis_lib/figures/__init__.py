"""All plots of the thesis in one style: arrays and tables in, a matplotlib Figure out.

To add a plot, write a function in the module of its subject. To show it in the chapter, add it to
``FIGURES`` in ``thesis_lib.reporting.catalogue.figures`` and to ``ORDER`` in
``thesis_lib.reporting.chapter``, and call ``draw`` in a notebook (all steps: docs/architecture.md).
Lengths are in millimetres and font sizes in points, both at print size. Figures are closed in
pyplot as soon as they are created, so a notebook shows each of them only once.

Reads  nothing.
Writes the PDF and PNG files that ``save`` is called for.
Imports system.
"""

from thesis_lib.lazy import face

# public name -> the module that defines it; None: the name is itself a public module
HOMES = {
    "set_style": "style",
    "save": "style",
    "figure_size": "style",
    "run_color": "style",
    "class_f1": None,
    "confidence": None,
    "data_set": None,
    "results": None,
    "retrieval": None,
    "runs": None,
    "sizes": None,
    "style": None,
    "training": None,
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
