"""Explore a run's results interactively in a notebook.

Each function returns a widget if the notebook is open in a front end that can show it (JupyterLab,
Jupyter Notebook, VS Code, Colab). Elsewhere (papermill, nbconvert, plain Python) it returns a
figure of the widget's initial state.
"""

from thesis_lib.reporting.widgets.matrix import confusion
from thesis_lib.reporting.widgets.nearest import neighbours
from thesis_lib.reporting.widgets.pruned import thresholds

__all__ = ["confusion", "neighbours", "thresholds"]
