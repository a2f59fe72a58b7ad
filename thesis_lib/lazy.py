"""Faces of rooms: names that are imported from their modules when they are first used.

So ``thesis status`` and ``thesis --help`` start without loading torch, although the faces of the
rooms offer functions that need it.
"""

import importlib
from collections.abc import Mapping
from typing import Any


def public_name(room: str, homes: Mapping[str, str | None], name: str) -> Any:
    """Import a public name of a room; a room's ``__getattr__`` calls this.

    Args:
        room: the package, such as ``thesis_lib.data``.
        homes: each public name and the module of the room that defines it; None for a module
            that is public as a whole.
        name: the name that was asked for.

    Raises:
        AttributeError: for a name that is not public.
    """
    if name not in homes:
        raise AttributeError(f"module {room!r} has no attribute {name!r}")
    home = homes[name]
    module = importlib.import_module(f"{room}.{home or name}")
    return module if home is None else getattr(module, name)
