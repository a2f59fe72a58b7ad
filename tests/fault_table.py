"""The table of faults that `make test-all` prints: one row per fault, as its test counted it."""

from collections import Counter

import pytest

# Files in which every test is a fault.
COUNTED = {
    "tests/faults/test_images.py": "damaged and unusual images",
    "tests/faults/test_trust.py": "malicious checkpoints, and searches for unsafe loading",
    "tests/data/sources/test_archives.py": "malicious, damaged and unusual archives",
}


@pytest.fixture
def faults(record_property):
    """Note a fault: how often it was injected and survived, and what was lost."""

    def note(fault: str, injected: int, survived: int, lost: str = "nothing") -> None:
        lost = lost if survived == injected else "see above"
        record_property("fault", [fault, injected, survived, lost])  # travels from xdist's workers
        assert survived == injected, f"{fault}: {survived} of {injected} survived"

    return note


def pytest_terminal_summary(terminalreporter):
    ran, passed, rows = Counter(), Counter(), []
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            path = report.nodeid.split("::")[0]
            rows += [
                tuple(value)
                for name, value in getattr(report, "user_properties", ())
                if name == "fault"
            ]
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
