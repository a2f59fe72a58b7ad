import ast
import json
import re
from pathlib import Path

import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from thesis_lib.config import RunConfig
from thesis_lib.data.demo import demo_configs
from thesis_lib.workbook.receipts import receipt_holds

FOLDER = Path(__file__).parent.parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path, kind="code"):
    content = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in content if cell["cell_type"] == kind]


def parameters(path):
    tagged = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, "one parameters cell"
    body = ast.parse("".join(tagged[0]["source"])).body
    return {statement.targets[0].id: ast.literal_eval(statement.value) for statement in body}


def test_the_notebooks_are_there():
    names = [path.stem[:2] for path in NOTEBOOKS]
    assert names == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestEachNotebook:
    def test_is_committed_without_outputs(self, path):
        for cell in cells(path):
            assert cell["outputs"] == [] and cell["execution_count"] is None

    def test_is_thin(self, path):
        for cell in cells(path):
            source = "".join(cell["source"])
            assert not any(
                isinstance(node, ast.FunctionDef | ast.ClassDef)
                for node in ast.walk(ast.parse(source))
            )
            assert len(source.splitlines()) <= 14

    def test_imports_from_three_faces_at_most_in_one_cell_of_five_lines(self, path):
        sources = ["".join(cell["source"]) for cell in cells(path)]
        importing = [source for source in sources if re.search(r"^(from|import) ", source, re.M)]
        assert importing == sources[:1]
        assert len(sources[0].splitlines()) <= 5
        modules = [node.module for node in ast.parse(sources[0]).body]
        rooms = [module for module in modules if module != "IPython.display"]
        assert len(rooms) <= 3
        assert all(re.fullmatch(r"thesis_lib\.[a-z]+", room) for room in rooms)

    def test_ends_no_cell_with_a_raw_value(self, path):
        """Cells show tables, figures or sentences, never a repr."""
        for cell in cells(path):
            last = ast.parse("".join(cell["source"])).body[-1]
            assert not (isinstance(last, ast.Expr) and isinstance(last.value, ast.Name | ast.Dict))

    def test_says_what_it_asks_reads_and_writes(self, path):
        first = "".join(cells(path, "markdown")[0]["source"])
        assert first.startswith(f"# {path.stem[:2]} ")
        assert all(word in first for word in ("**Asks**", "**Reads**", "**Writes**"))

    def test_every_figure_stands_under_a_sentence(self, path):
        content = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = ""
        for cell in content:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                text = source
            elif "draw(" in source:
                assert "." in text, source

    def test_last_cell_confirms_that_it_was_reached(self, path):
        assert "".join(cells(path)[-1]["source"]).startswith(f'write_receipt("{path.stem}", ')

    def test_parameters_are_literals_that_run_config_knows(self, path):
        RunConfig.from_dict(parameters(path))


def test_defaults_are_a_run_of_the_demo():
    config = RunConfig(**parameters(FOLDER / "02_supcon_pretraining.ipynb"))
    assert config in demo_configs("digits")
    for name in ("03_checkpoint_probing", "04_final_test", "05_cosine_retrieval"):
        found = parameters(FOLDER / f"{name}.ipynb")
        assert all(getattr(config, key) == value for key, value in found.items())


def test_unknown_parameter_is_an_error_under_plain_papermill(workbook):
    path = FOLDER / "02_supcon_pretraining.ipynb"
    with pytest.raises(PapermillExecutionError) as raised:
        papermill.execute_notebook(
            path, workbook / "out.ipynb", {"data": "data/tiny", "epoch": 3}, progress_bar=False
        )
    assert raised.value.ename == "InputError"
    assert raised.value.evalue.startswith("unknown setting 'epoch'; nearest: epochs")
    assert not (workbook / "runs").exists()


def test_data_set_is_found_from_the_notebooks_folder(workbook):
    """JupyterLab starts a notebook in notebooks/, while data/ is in the folder above."""
    (workbook / "notebooks").mkdir()
    copy = workbook / "notebooks" / "01_data_stats.ipynb"
    copy.write_bytes((FOLDER / copy.name).read_bytes())
    papermill.execute_notebook(
        copy, workbook / "out.ipynb", {"data": "data/tiny"}, cwd=copy.parent, progress_bar=False
    )
    assert (workbook / "runs" / "tiny" / "data_statistics.json").is_file()
    assert (workbook / "figures" / "tiny" / "class_counts.pdf").is_file()
    assert receipt_holds("01_data_stats", RunConfig(data="data/tiny"))
