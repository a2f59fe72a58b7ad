"""The table of `make faults`: a row a fault, as its test has counted it."""

import pytest

ROWS: list[tuple[str, int, int, str]] = []


@pytest.fixture
def faults():
    """Note a fault: how often it was injected and survived, and what was lost."""

    def note(fault: str, injected: int, survived: int, lost: str = "nothing") -> None:
        ROWS.append((fault, injected, survived, lost))
        assert survived == injected, f"{fault}: {survived} of {injected} survived"

    return note


def pytest_terminal_summary(terminalreporter):
    if ROWS:
        width = max(len(row[0]) for row in ROWS)
        terminalreporter.section("faults")
        terminalreporter.write_line(f"{'fault':{width}}  injected  survived  lost")
        for fault, injected, survived, lost in ROWS:
            terminalreporter.write_line(f"{fault:{width}}  {injected:8}  {survived:8}  {lost}")
        all_injected, all_survived = (sum(row[i] for row in ROWS) for i in (1, 2))
        lost = {row[3] for row in ROWS} - {"nothing"}
        terminalreporter.write_line(
            f"{'together':{width}}  {all_injected:8}  {all_survived:8}  "
            f"{'; '.join(sorted(lost)) or 'nothing'}"
        )
