import pytest

from thesis_lib.training.code_version import CODE_VERSION, _statements, code_version

SOURCE = """
\"\"\"What this is for.\"\"\"

def double(x):
    \"\"\"Return twice x.\"\"\"
    return 2 * x  # the whole of it
"""


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("Return twice x.", "Double a number.", True),
        ("  # the whole of it", "", True),
        ("What this is for.", "Something else.", True),
        ("2 * x", "x + x", False),
        ("def double(x)", "def double(x=0)", False),
    ],
)
def test_only_what_is_executed_counts(old, new, same):
    assert (_statements(SOURCE.replace(old, new)) == _statements(SOURCE)) is same


def test_code_version_names_the_code_and_the_libraries():
    assert code_version() == CODE_VERSION
    assert {"thesis_lib", "torch", "torchvision", "timm", "numpy", "pillow"} == set(CODE_VERSION)
