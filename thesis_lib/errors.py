"""The error for what a user can put right, and the words it uses."""

import difflib
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """Something that the user can put right; its message is one clear line."""

    def _render_traceback_(self) -> list[str]:
        # IPython asks an exception for its own rendering: one line instead of a traceback.
        return [f"{type(self).__name__}: {self}"]


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; nearest: a, b, c"`` for the known names most like ``name``, or ``""``."""
    matches = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; nearest: {', '.join(matches)}" if matches else ""


def first_few(names: Sequence[str]) -> str:
    """``'a', 'b', 'c' and 5 more``."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
