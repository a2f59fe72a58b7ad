"""The ``thesis`` command: options from RunConfig, one line for what goes wrong, exit statuses.

Reads  the command line.
Writes to the terminal; what it calls writes files.
"""

from typing import Any

from thesis_lib.lazy import public_name

# Each public name and the module that defines it; None: the whole module is public.
HOMES = {
    "main": "command_line",
    "exit_status": "command_line",
    "Parser": "options",
    "add_settings": "options",
    "given_settings": "options",
    "run_commands": None,
}
__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    return public_name(__name__, HOMES, name)


def __dir__() -> list[str]:
    return __all__
