"""The ``thesis`` command: its options come from RunConfig, and errors are one line.

``command_line`` has every command with its options; what a command does is a function in
``data_commands``, ``run_commands`` or ``result_commands``.

Reads  the command line.
Writes to the terminal; files are written by the packages that it calls.
Imports errors, config, system, data, runs, training, evaluation, workbook, prediction, reporting.
"""

from thesis_lib.lazy import face

# public name -> the module that defines it; None: the name is itself a public module
HOMES = {
    "main": "command_line",
    "Parser": "options",
    "add_settings": "options",
    "given_settings": "options",
    "data_commands": None,
    "run_commands": None,
    "result_commands": None,
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
