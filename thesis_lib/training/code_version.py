"""The version of the code that a training's weights depend on."""

import ast
import hashlib
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
# The modules that affect a training's weights.
CODE = (
    *("losses", "backbones", "heads", "system/device", "system/distributed"),
    *("data/cache", "data/datasets", "data/framing", "data/images", "data/loaders"),
    *("data/organisms/finding", "data/statistics", "data/transforms"),
    *("training/checkpoints", "training/engine", "training/pretraining", "training/resume"),
    *("training/stage", "training/state"),
)
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow")


def code_version() -> dict[str, str]:
    """Return a hash of the modules that affect the weights, and the versions of the libraries.

    Comments and docstrings do not count, so a run can be resumed after they were edited.
    """
    digest = hashlib.sha256()
    for name in CODE:
        digest.update(_statements((PACKAGE / f"{name}.py").read_text("utf-8")).encode())
    versions = {name: metadata.version(name) for name in LIBRARIES}
    return {"thesis_lib": digest.hexdigest()[:16], **versions}


def _statements(source: str) -> str:
    """Return a dump of the source's syntax tree without its docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = node.body[ast.get_docstring(node, clean=False) is not None :]
    return ast.dump(tree)


CODE_VERSION = code_version()  # at import: the files may be edited while training runs
