"""Return a widget if a front end can show it, and a figure otherwise."""

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
from IPython import get_ipython
from IPython.core.pylabtools import print_figure
from matplotlib.figure import Figure

# Front ends identify the cell in the metadata of their execute requests: JupyterLab, Jupyter
# Notebook 7 and VS Code by the first key, Colab by the second. Consoles and nbclient, which
# papermill and nbconvert use, write neither.
CELL_KEYS = ("cellId", "colab")


def has_front_end() -> bool:
    """Return whether the current cell was sent by a front end that can show widgets."""
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:  # plain Python, or IPython in a terminal
        return False
    metadata = kernel.get_parent().get("metadata", {})
    return any(key in metadata for key in CELL_KEYS)


class Explorer(widgets.VBox):
    """A widget that also contains a figure of its initial state.

    Pages that cannot show widgets, such as the HTML report or a viewer of saved notebooks, show
    the figure instead.
    """

    def __init__(self, children: Sequence[widgets.Widget], figure: Figure) -> None:
        super().__init__(children, _dom_classes=("thesis-explorer",))
        self._png = print_figure(figure, "png", base64=True)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {**super()._repr_mimebundle_(**kwargs), "image/png": self._png}


def shown(children: Callable[[], Sequence[widgets.Widget]], figure: Figure) -> Explorer | Figure:
    """Return a widget with the given children if there is a front end, and the figure otherwise.

    Without a front end no widget is created, because its state would be saved in the notebook.
    """
    return Explorer(children(), figure) if has_front_end() else figure
