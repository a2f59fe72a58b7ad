"""Whether anybody can click: a widget where a front end shows it, else a figure."""

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
from IPython import get_ipython
from IPython.core.pylabtools import print_figure
from matplotlib.figure import Figure

# What front ends write into the metadata of their execute requests, to find the cell again:
# JupyterLab, Jupyter Notebook 7 and VS Code the first, Colab the second. nbclient, with which
# papermill and nbconvert execute, and consoles write nothing.
CELL_KEYS = ("cellId", "colab")


def has_front_end() -> bool:
    """Whether the cell that is being executed was sent by a front end that shows widgets."""
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:  # plain Python, or IPython in a terminal
        return False
    metadata = kernel.get_parent().get("metadata", {})
    return any(key in metadata for key in CELL_KEYS)


class Explorer(widgets.VBox):
    """A widget that carries a figure of what it shows first.

    A page that shows no widgets, such as that of ``thesis report`` or a viewer of saved
    notebooks, shows the figure.
    """

    def __init__(self, children: Sequence[widgets.Widget], figure: Figure) -> None:
        super().__init__(children, _dom_classes=("thesis-explorer",))
        self._png = print_figure(figure, "png", base64=True)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {**super()._repr_mimebundle_(**kwargs), "image/png": self._png}


def shown(children: Callable[[], Sequence[widgets.Widget]], figure: Figure) -> Explorer | Figure:
    """The widget of some children where there is a front end, else the figure.

    Without a front end no widget is made: its state would be saved with the notebook.
    """
    return Explorer(children(), figure) if has_front_end() else figure
