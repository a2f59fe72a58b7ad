"""Results of threads come in order, errors are raised, and a dead thread is not waited for."""

import time
from concurrent.futures import thread

import pytest

from thesis_lib.errors import InputError
from thesis_lib.system.threads import map_in_threads


def test_results_come_in_the_order_of_the_items():
    def slow_if_small(number: int) -> int:
        time.sleep((20 - number) / 1000)
        return number**2

    assert list(map_in_threads(slow_if_small, range(20), 4)) == [n**2 for n in range(20)]
    assert list(map_in_threads(slow_if_small, [], 4)) == []


@pytest.mark.parametrize(
    "error", [InputError("no image"), TimeoutError("slow disk"), RuntimeError()]
)
def test_an_error_is_raised_as_it_is_and_the_rest_is_not_computed(error):
    computed = []

    def compute(number: int) -> int:
        if number == 3:
            raise error
        computed.append(number)
        time.sleep(0.01)
        return number

    with pytest.raises(type(error)) as found:
        list(map_in_threads(compute, range(1000), 2))
    assert found.value is error
    assert len(computed) < 500


@pytest.mark.parametrize(
    "error", [MemoryError(), SystemError("error return without exception set")]
)
def test_short_memory_is_an_error_of_one_line(error):
    def starve(number: int) -> int:
        raise error

    with pytest.raises(InputError, match=r"^out of memory while images were read; [^\n]+$"):
        list(map_in_threads(starve, range(3), 2))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("dying", [1, 2])
def test_a_thread_that_ends_without_a_result_is_noticed(monkeypatch, dying):
    """As if no memory were left to catch the MemoryError: its result is never set."""
    run = thread._WorkItem.run
    left = list(range(dying))

    def die(item) -> None:
        if left:
            left.pop()
            raise MemoryError
        run(item)

    monkeypatch.setattr(thread._WorkItem, "run", die)
    began = time.monotonic()
    with pytest.raises(InputError, match="out of memory"):
        list(map_in_threads(str, range(50), 2))
    assert time.monotonic() - began < 10


def test_without_memory_for_a_thread_the_error_is_the_same(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    with pytest.raises(InputError, match="out of memory"):
        list(map_in_threads(str, range(3), 2))
