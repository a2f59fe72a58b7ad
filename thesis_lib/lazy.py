"""Faces of rooms: names that are imported from their modules when they are first used.

So ``thesis status`` and ``thesis --help`` start without loading torch, although the faces of the
rooms offer functions that need it.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

Face = tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]


def face(room: str, homes: Mapping[str, str | None]) -> Face:
    """Return a room's ``__getattr__``, ``__dir__`` and ``__all__``.

    Args:
        room: the package, such as ``thesis_lib.data``.
        homes: each public name and the module of the room that defines it; None for a module
            that is public as a whole.
    """
    names = sorted(homes)

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        home = homes[name]
        module = importlib.import_module(f"{room}.{home or name}")
        return module if home is None else getattr(module, name)

    return get, lambda: names, names
