"""Draw figures of the catalogue and save them as PDF and PNG."""

from matplotlib.figure import Figure

from thesis_lib.errors import InputError
from thesis_lib.figures.style import save, set_style
from thesis_lib.reporting.catalogue.figures import FIGURES
from thesis_lib.reporting.results import Results


def draw(name: str, results: Results, save_it: bool = True) -> Figure | None:
    """Draw a figure, save it as PDF and PNG, and return it for display.

    A figure that cannot be drawn is named and left out, so that the notebook goes on.

    Args:
        name: a key of :data:`thesis_lib.reporting.catalogue.figures.FIGURES`.
        results: the results to show; the figure is saved in their folder.
        save_it: if False, the figure is not saved, as in notebook 02 before the run exists.

    Returns:
        The figure, or None if the results contain nothing to draw or it cannot be drawn.

    Raises:
        InputError: if what it shows is missing or has changed.
    """
    set_style(results.config.text_width)
    try:
        figure = FIGURES[name].make(results)
        if figure is not None and save_it:
            save(figure, results.folder / name, {**results.source, "name": name})
    except InputError:
        raise
    except Exception as error:  # a library's error for unforeseen results
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"!! the figure {name} cannot be drawn and is left out: {reason}")
        figure = None
    if figure is None and save_it:
        for ending in (".pdf", ".png"):  # of earlier results
            (results.folder / f"{name}{ending}").unlink(missing_ok=True)
    return figure
