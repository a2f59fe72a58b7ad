"""The table of `make faults`: a row a fault, as its test has counted it."""

from collections import Counter

import pytest

ROWS: list[tuple[str, int, int, str]] = []
# Files whose tests are a fault each.
COUNTED = {
    "tests/faults/test_images.py": "images that are not plain, each way of being so",
    "tests/faults/test_trust.py": "hostile checkpoints, and looks for code that trusts",
    "tests/data/test_archives.py": "hostile, damaged and odd archives",
}


@pytest.fixture
def faults():
    """Note a fault: how often it was injected and survived, and what was lost."""

    def note(fault: str, injected: int, survived: int, lost: str = "nothing") -> None:
        ROWS.append((fault, injected, survived, lost if survived == injected else "see above"))
        assert survived == injected, f"{fault}: {survived} of {injected} survived"

    return note


def pytest_terminal_summary(terminalreporter):
    ran, passed, rows = Counter(), Counter(), list(ROWS)
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            path = report.nodeid.split("::")[0]
            if path in COUNTED:
                ran[path] += 1
                passed[path] += outcome == "passed"
            elif path.startswith("tests/faults/") and outcome != "passed":
                rows.append((report.nodeid.split("::")[-1], 1, 0, "see above"))
    for path, count in ran.items():
        lost = "nothing" if count == passed[path] else "see above"
        rows.append((COUNTED[path], count, passed[path], lost))
    if not rows:
        return
    width = max(len(row[0]) for row in rows)
    terminalreporter.section("faults")
    terminalreporter.write_line(f"{'fault':{width}}  injected  survived  lost")
    injected, survived = (sum(row[i] for row in rows) for i in (1, 2))
    lost = {row[3] for row in rows} - {"nothing"}
    rows.append(("together", injected, survived, "; ".join(sorted(lost)) or "nothing"))
    for fault, injected, survived, lost in rows:
        terminalreporter.write_line(f"{fault:{width}}  {injected:8,}  {survived:8,}  {lost}")
