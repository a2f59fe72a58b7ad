"""Every plot, in one style: arrays and tables in, a matplotlib Figure out.

Knows nothing of runs. A new plot is a function in the module of its subject; it becomes part of
the chapter by an entry in ``thesis_lib.reporting.catalogue.figures``. Lengths are in millimetres
and text in points, both at print size. pyplot does not hold the figures, so a notebook shows each
once.

Reads  nothing.
Writes the PDF and PNG that ``save`` is asked for.
"""

from typing import Any

from thesis_lib.lazy import public_name

# Each public name and the module that defines it; None: the whole module is public.
HOMES = {
    "set_style": "style",
    "save": "style",
    "figure_size": "style",
    "run_color": "style",
    "data_set": None,
    "results": None,
    "retrieval": None,
    "style": None,
    "training": None,
}
__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    return public_name(__name__, HOMES, name)


def __dir__() -> list[str]:
    return __all__
