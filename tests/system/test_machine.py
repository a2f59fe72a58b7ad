"""Cores and memory are those that this process may use, not those of the machine."""

import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from thesis_lib.system import machine

GIB = 2**30


@pytest.fixture
def memory(monkeypatch):
    """A machine with 16 GiB, of which 12 are available."""
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * GIB, available=12 * GIB)
    )


def limited(tmp_path, monkeypatch, own: str, files: dict[str, object]) -> None:
    """Give this process a control group with some files, by their paths."""
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "cgroup")
    for name, content in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")


def test_without_a_control_group_the_memory_is_the_machines(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "none")
    assert (machine.total_memory(), machine.free_memory()) == (16 * GIB, 12 * GIB)


CASES = {
    "version 2, in a container": (
        "0::/\n",
        {"memory.max": 4 * GIB, "memory.current": 3 * GIB, "memory.stat": "inactive_file 0"},
    ),
    "version 2, the limit is above": (
        "0::/job/step\n",
        {
            "job/memory.max": 4 * GIB,
            "job/memory.current": 3 * GIB,
            "job/step/memory.max": "max",
            "job/step/memory.current": GIB,
        },
    ),
    "version 1": (
        "5:devices:/\n4:cpu,memory:/docker/1a2b\n0::/\n",
        {
            "memory/docker/1a2b/memory.limit_in_bytes": 4 * GIB,
            "memory/docker/1a2b/memory.usage_in_bytes": 3 * GIB,
            "memory/memory.limit_in_bytes": 2**63 - 4096,  # no limit
            "memory/memory.usage_in_bytes": 9 * GIB,
        },
    ),
    "version 1, with the path of the host": (
        "4:memory:/docker/1a2b\n",
        {"memory/memory.limit_in_bytes": 4 * GIB, "memory/memory.usage_in_bytes": 3 * GIB},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_control_group_limits_the_memory(memory, tmp_path, monkeypatch, case):
    limited(tmp_path, monkeypatch, *CASES[case])
    assert (machine.total_memory(), machine.free_memory()) == (4 * GIB, GIB)


def test_the_file_cache_of_a_control_group_is_free(memory, tmp_path, monkeypatch):
    own, files = CASES["version 2, in a container"]
    files = files | {"memory.stat": f"anon 5\ninactive_file {2 * GIB}"}
    limited(tmp_path, monkeypatch, own, files)
    assert machine.free_memory() == 3 * GIB


def test_a_control_group_that_is_full_leaves_nothing(memory, tmp_path, monkeypatch):
    limited(tmp_path, monkeypatch, "0::/\n", {"memory.max": GIB, "memory.current": 2 * GIB})
    assert machine.free_memory() == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_cores_are_those_of_the_affinity():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from thesis_lib.system.machine import num_cores; print(num_cores(), num_cores(3))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
