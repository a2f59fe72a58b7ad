"""Looking at a run's results in JupyterLab: click, slide, choose.

Each function returns a widget where there is a front end that shows it (JupyterLab, Jupyter
Notebook, VS Code, Colab), and elsewhere (papermill, nbconvert, plain Python) a figure of what the
widget shows first.
"""

from thesis_lib.reporting.widgets.matrix import confusion
from thesis_lib.reporting.widgets.nearest import neighbours
from thesis_lib.reporting.widgets.pruned import thresholds

__all__ = ["confusion", "neighbours", "thresholds"]
