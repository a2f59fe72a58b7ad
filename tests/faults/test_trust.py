"""Loading a file never executes code from it: malicious checkpoints are refused.

Each malicious file is shown to be one: loaded without protection, it leaves a mark file. All
source files are searched for functions that load files without this protection.
"""

import argparse
import ast
import contextlib
import hashlib
import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager

from thesis_lib.cli.command_line import main
from thesis_lib.errors import InputError
from thesis_lib.training import checkpoints
from thesis_lib.training.supcontrast import read_checkpoint

ROOT = Path(__file__).parent.parent.parent
MARK = "executed"


class Trap:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


class Parcel:
    """A custom class with some content."""

    def __init__(self, content):
        self.content = {"list": [content]}


STATEMENT = f"open({MARK!r}, 'w').close()"
TRAPS = {
    "os.system": Trap(os.system, f"echo > {MARK}"),
    "os.mkdir": Trap(os.mkdir, MARK),
    "eval": Trap(eval, STATEMENT),
    "exec": Trap(exec, STATEMENT),
    "numpy objects": np.array([Trap(exec, STATEMENT)], dtype=object),
    "nested class": argparse.Namespace(options=[{"deep": (Parcel(Trap(exec, STATEMENT)),)}]),
    "key": {Trap(os.system, f"echo > {MARK}"): 1},
    "ordered state": torch.nn.ModuleDict({"a": torch.nn.Linear(1, 1)}).state_dict(),
}
TRAPS["ordered state"]["a.weight"] = Trap(exec, STATEMENT)


def content(trap):
    """Return a checkpoint in SupContrast's layout with a trap among its options."""
    model = {"encoder.weight": torch.ones(2, 2)}
    return {"opt": argparse.Namespace(dataset=trap), "model": model, "epoch": 1}


def in_zip(trap):
    buffer = io.BytesIO()
    torch.save(content(trap), buffer)
    return buffer.getvalue()


def in_old_format(trap):
    buffer = io.BytesIO()
    torch.save(content(trap), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def in_tar_of_old(trap):
    """Return a file in the format of torch before 0.1.10, a tar of pickles."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            pickled = pickle.dumps(trap, protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(pickled)
            archive.addfile(info, io.BytesIO(pickled))
    return buffer.getvalue()


def in_exchanged_pickle(trap):
    """Return a valid file whose pickle is replaced, with its tensors unchanged."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(in_zip(None))) as sound,
        zipfile.ZipFile(buffer, "w") as archive,
    ):
        for name in sound.namelist():
            hostile = name.endswith("data.pkl")
            archive.writestr(name, pickle.dumps(trap, protocol=2) if hostile else sound.read(name))
    return buffer.getvalue()


def in_bare_pickle(trap):
    return pickle.dumps(content(trap), protocol=2)


def in_head_of_old_format(trap):
    """Return a file in the old format, in which even the magic number is a pickle."""
    return pickle.dumps(trap, protocol=2) + in_old_format(None)


WRAPPINGS = [
    in_zip,
    in_old_format,
    in_tar_of_old,
    in_exchanged_pickle,
    in_bare_pickle,
    in_head_of_old_format,
]


@pytest.fixture(
    params=[(w, t) for w in WRAPPINGS for t in TRAPS], ids=lambda p: f"{p[0].__name__}-{p[1]}"
)
def hostile(request, tmp_path, monkeypatch) -> Path:
    """A malicious file in the working directory, where it would write its mark file."""
    monkeypatch.chdir(tmp_path)
    wrap, trap = request.param
    path = tmp_path / "last.pth"
    path.write_bytes(wrap(TRAPS[trap]))
    return path


def with_checksum(path: Path) -> Path:
    """Append the checksum that our own checkpoints end with."""
    body = path.read_bytes()
    path.write_bytes(body + b"\nsha256:" + hashlib.sha256(body).hexdigest().encode())
    return path


def trusting(monkeypatch) -> None:
    """Disable the protection."""
    load = torch.load

    def load_anything(file, **options):
        return load(file, **{**options, "weights_only": False})

    monkeypatch.setattr(torch, "load", load_anything)


def read_trusting(read, path: Path) -> None:
    # The result is rarely a valid checkpoint; only the mark file matters.
    with contextlib.suppress(Exception):
        read(path)


def test_a_hostile_checkpoint_is_not_imported(hostile, capsys):
    with pytest.raises(InputError, match=r"last\.pth .*(not loaded|cannot be read)"):
        read_checkpoint(hostile)
    command = ["import-checkpoint", str(hostile), "--data", "data/tiny", "--backbone", "resnet18"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("thesis: error: ") and len(error.splitlines()) == 1
    assert os.listdir() == ["last.pth"]


def test_a_hostile_checkpoint_is_not_imported_only_since_it_is_not_trusted(hostile, monkeypatch):
    trusting(monkeypatch)
    read_trusting(read_checkpoint, hostile)
    assert Path(MARK).exists()


@pytest.mark.parametrize("finish", [Path, with_checksum])
def test_a_hostile_checkpoint_of_a_run_is_refused(hostile, finish):
    with pytest.raises(InputError, match=r"last\.pth"):
        checkpoints.load(finish(hostile))
    assert os.listdir() == ["last.pth"]


def test_a_hostile_checkpoint_of_a_run_is_refused_only_since_it_is_not_trusted(
    hostile, monkeypatch
):
    trusting(monkeypatch)
    read_trusting(checkpoints.load, with_checksum(hostile))
    # torch does not check bytes in memory for its oldest format, tar
    assert Path(MARK).exists() != tarfile.is_tarfile(hostile)


def test_a_trap_is_not_sprung_by_saving_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints.save(tmp_path / "last.pth", content(TRAPS["exec"]))
    with pytest.raises(InputError):
        checkpoints.load(tmp_path / "last.pth")
    assert os.listdir() == ["last.pth"]


@pytest.mark.parametrize("new", [True, False])
def test_an_old_file_with_a_namespace_is_read(tmp_path, new):
    opt = argparse.Namespace(temp=0.1, batch_size=8, lr_decay_epochs=[700, 800], cosine=True)
    told = {**content(None), "opt": opt}
    torch.save(told, tmp_path / "last.pth", _use_new_zipfile_serialization=new)
    checkpoint = read_checkpoint(tmp_path / "last.pth")
    assert checkpoint.options["lr_decay_epochs"] == [700, 800]
    assert checkpoint.settings["temperature"] == 0.1
    assert torch.equal(checkpoint.weights["backbone.weight"], torch.ones(2, 2))
    # unlike a run's checkpoint, which may only hold plain values
    with pytest.raises(InputError):
        checkpoints.load(with_checksum(tmp_path / "last.pth"))


RUNNERS = {
    *("eval", "exec", "builtins.eval", "builtins.exec"),
    *(f"{m}.{f}" for m in ("pickle", "marshal", "dill", "cloudpickle") for f in ("load", "loads")),
    *("pickle.Unpickler", "shelve.open", "joblib.load", "pandas.read_pickle"),
    *("yaml.unsafe_load", "yaml.full_load", "shutil.unpack_archive"),
}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader"}


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """Return a full dotted name, such as ``numpy.load`` for ``np.load``; ``?`` if not a name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, names)}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


def imported_names(tree: ast.AST) -> dict[str, str]:
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def is_literal(node: ast.AST | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def trusting_calls(source: str) -> list[str]:
    """Return the calls in a source that may execute code from a file or unpack it anywhere."""
    tree = ast.parse(source)
    names, found = imported_names(tree), []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function = dotted(call.func, names)
        options = {keyword.arg: keyword.value for keyword in call.keywords}
        loader = options.get("Loader", call.args[1] if len(call.args) > 1 else None)
        if (
            function in RUNNERS
            or function.endswith(".extractall")
            or ("weights_only" in options and not is_literal(options["weights_only"], True))
            or (function == "torch.load" and "weights_only" not in options)
            or ("allow_pickle" in options and not is_literal(options["allow_pickle"], False))
            or (function == "numpy.load" and len(call.args) > 2)
            or (
                function in ("yaml.load", "yaml.load_all")
                and (loader is None or dotted(loader, names).split(".")[-1] not in SAFE_LOADERS)
            )
        ):
            found.append(f"line {call.lineno}: {ast.unparse(call)}")
    return found


def python_of(path: Path) -> str:
    """Return the source of a module, or of a notebook's cells without IPython's syntax."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text
    cells = json.loads(text)["cells"]
    code = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return "\n".join(TransformerManager().transform_cell(cell) for cell in code)


def sources() -> list[Path]:
    paths = []
    for folder in ("thesis_lib", "notebooks", "benchmarks", "tests"):
        for pattern in ("*.py", "*.ipynb"):
            paths += (ROOT / folder).rglob(pattern)
    return sorted(path for path in paths if path != Path(__file__))


def test_no_source_trusts_what_a_file_brings():
    paths = sources()
    assert {"checkpoints.py", "02_supcon_pretraining.ipynb", "conftest.py"} <= {
        path.name for path in paths
    }
    found = {str(path.relative_to(ROOT)): trusting_calls(python_of(path)) for path in paths}
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=False)",
        "torch.load(path)",
        "torch.load(path, weights_only=not safe)",
        "from torch import load\nload(path)",
        "anything.load(path, weights_only=False)",
        "import pickle\npickle.load(file)",
        "import pickle as p\np.loads(data)",
        "from pickle import load as read\nread(file)",
        "from pickle import Unpickler\nUnpickler(file).load()",
        "eval('1')",
        "def f():\n    return [exec(x) for x in y]",
        "import builtins\nbuiltins.eval('1')",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, None, True)",
        "from numpy import load\nload(path, allow_pickle=yes)",
        "import yaml\nyaml.load(file)",
        "import yaml\nyaml.load(file, Loader=yaml.Loader)",
        "import yaml\nyaml.load(file, yaml.FullLoader)",
        "import yaml\nyaml.unsafe_load(file)",
        "tarfile.open(path).extractall()",
        "with zipfile.ZipFile(path) as archive:\n    archive.extractall(folder)",
        "import shutil\nshutil.unpack_archive(path)",
        "import joblib\njoblib.load(path)",
    ],
)
def test_a_source_that_trusts_is_found(source, tmp_path):
    assert (
        len(trusting_calls(source.replace("torch.load(path", "import torch\ntorch.load(path"))) == 1
    )
    cells = [
        {"cell_type": "markdown", "source": ["eval("]},
        {"cell_type": "code", "source": [source]},
    ]
    cells.append({"cell_type": "code", "source": ["%load_ext tensorboard\n", "!ls\n", "x = 1"]})
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    assert len(trusting_calls(python_of(tmp_path / "a.ipynb"))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, weights_only=True)",
        "model.eval()",
        "executor.exec(1)",
        "import ast\nast.literal_eval('1')",
        "import json\njson.load(file)",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import yaml\nyaml.safe_load(file)",
        "import yaml\nyaml.load(file, Loader=yaml.SafeLoader)",
        "'weights_only=False'  # eval(x)",
    ],
)
def test_a_source_that_does_not_trust_is_not_blamed(source):
    assert trusting_calls(source) == []
