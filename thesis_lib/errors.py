"""The exception for mistakes that the user can fix, and helpers for its messages."""

import difflib
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """A mistake that the user can fix. Its message is one line: what, where and what to do."""

    def _render_traceback_(self) -> list[str]:
        # IPython calls this method, if an exception has it, instead of printing the traceback.
        return [f"{type(self).__name__}: {self}"]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; nearest: a, b, c"``, the other names most similar to ``name``, or ``""``."""
    others = [other for other in known if other != name]
    matches = difflib.get_close_matches(name, others, n=3, cutoff=0.5)
    return f"; nearest: {', '.join(matches)}" if matches else ""


def first_few(names: Sequence[str]) -> str:
    """Return the first three names and the number of others: ``'a', 'b', 'c' and 5 more``."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
