"""What the machine is asked for: its memory."""

import subprocess
import sys

import pytest

PEAK = """
import torch
from thesis_lib.system.device import peak_memory_mib
print(peak_memory_mib(torch.device("cpu")))
"""
BELOW_A_LARGE_ONE = """
import subprocess, sys
held = bytearray(2**31)
subprocess.run([sys.executable, "-c", sys.argv[1]])
"""


def printed(*words):
    command = [sys.executable, "-c", *words]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_peak_memory_is_that_of_this_program_not_of_the_one_that_started_it():
    alone = printed(PEAK)
    assert 50 < alone < 1_500
    assert printed(BELOW_A_LARGE_ONE, PEAK) == pytest.approx(alone, rel=0.2)
