"""What an installation needs, as far as one Python can tell it."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
PINS = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("name", "version"), PINS)
def test_pinned_versions_install_on_the_oldest_python_of_the_readme(name, version):
    """Debian 12 has Python 3.11.2; a package may ask for a later 3.11."""
    try:
        installed = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is for another system")
    assert installed.version == version
    needed = installed.metadata["Requires-Python"] or ""
    assert SpecifierSet(needed).contains("3.11.0"), f"{name} {version} needs Python {needed}"
