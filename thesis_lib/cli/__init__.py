"""The ``thesis`` command."""

from thesis_lib.cli.command_line import main

__all__ = ["main"]
