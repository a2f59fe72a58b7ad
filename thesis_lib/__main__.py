"""``python -m thesis_lib`` is the ``thesis`` command."""

from thesis_lib.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
