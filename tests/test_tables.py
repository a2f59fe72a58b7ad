import json
import re
import shutil
import subprocess

import pandas as pd
import pytest

from thesis_lib import quoted_numbers, tables
from thesis_lib.final_test import final_test
from thesis_lib.pretrain import pretrain
from thesis_lib.probe import probe_checkpoints
from thesis_lib.runs import find_runs

HOSTILE = pd.DataFrame(
    {"class": ["a_b & c", "50 % #1", "{x}~y^z\\", "012_Acartia sp.B", "a|b"], "f1": [0.5] * 5}
)


@pytest.fixture
def tested(workbook, tiny_config):
    """Two runs through all stages."""
    for batch_size in (8, 16):
        run = pretrain(tiny_config.updated(batch_size=batch_size))
        probe_checkpoints(run)
        final_test(run)
    return find_runs("tiny")


def test_table_is_written_in_three_forms(tmp_path):
    paths = tables.write_table(HOSTILE, tmp_path / "t", "Hostile & names.")
    assert [path.suffix for path in paths] == [".csv", ".md", ".tex"]
    pd.testing.assert_frame_equal(pd.read_csv(paths[0]), HOSTILE)
    assert r"a\|b" in paths[1].read_text()
    latex = paths[2].read_text()
    for needed in (r"\toprule", r"\midrule", r"\bottomrule", r"a\_b \& c", r"50 \% \#1"):
        assert needed in latex
    assert r"\label{tab:t}" in latex and r"\caption{Hostile \& names.}" in latex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(tmp_path):
    tables.write_table(HOSTILE, tmp_path / "t", "Hostile & names.")
    quoted_numbers.write_numbers({"run bs64 accuracy": "97.45"}, tmp_path / "numbers.tex")
    (tmp_path / "main.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\input{numbers}\begin{document}"
        r"\input{t}\RunBsSixFourAccuracy\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3 * 86400 + 21 * 3600 + 4 * 60 + 29, "3 d 21 h 4 min"),
        (3660, "1 h 1 min"),
        (81.4, "1 min 21 s"),
        (3.6, "4 s"),
        (59.7, "1 min 0 s"),
    ],
)
def test_elapsed_time_in_the_words_of_the_thesis(seconds, words):
    assert tables.elapsed_words(seconds) == words


def test_memory_in_the_words_of_the_thesis():
    assert tables.memory_words(11831, 12288) == "11,831 of 12,288 MiB (96.28 %)"


def test_probe_table_has_a_row_a_checkpoint_and_a_star(tested):
    table = tables.probe_table(tested)
    assert table["checkpoint"].is_monotonic_decreasing
    assert list(table)[1:] == ["lenet5-bs16-seed42", "lenet5-bs8-seed42"]
    for run in table.columns[1:]:
        cells = table[run][table[run] != ""]
        assert all(re.fullmatch(r"\d+\.\d\d / \d+( \*)?", cell) for cell in cells)
        assert cells.str.endswith("*").sum() == 1


def test_test_and_cost_tables_have_a_row_a_run(tested):
    test, cost = tables.test_table(tested), tables.cost_table(tested)
    assert test["run"].tolist() == cost["run"].tolist() == [run.path.name for run in tested]
    assert test["accuracy"].str.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)").all()
    assert cost["epochs"].tolist() == [4, 4]


def test_numbers_have_a_macro_each(tested, tmp_path):
    path = quoted_numbers.write_numbers(
        quoted_numbers.chapter_numbers(tested), tmp_path / "numbers.tex"
    )
    names = re.findall(r"\\newcommand\{\\([A-Za-z]+)\}", path.read_text())
    assert len(names) == len(set(names)) == len(quoted_numbers.chapter_numbers(tested))
    assert "LenetFiveBsEightSeedFourTwoTestAccuracy" in names


def test_two_numbers_with_one_macro_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two numbers would be"):
        quoted_numbers.write_numbers({"a-b": "1", "a_b": "2"}, tmp_path / "numbers.tex")


def test_published_values_only_beside_dyb(tested):
    assert not tables.reproduces_dyb(tested)
    assert "published" not in tables.accuracy_table(tested)
    run = tested[0]
    names = tables.published_table("classes")["class"].tolist()
    result = json.loads(run.test_file.read_text())
    run.test_file.write_text(json.dumps(result | {"classes": names}))
    assert tables.reproduces_dyb(tested)
    assert "published" in tables.accuracy_table(tested)


def test_published_tables_hold_the_published_values(tested):
    probe = tables.published_probe_table().set_index("checkpoint")
    assert probe.index[0] == "last" and probe.index[1] == "1000" and probe.index[-1] == "700"
    assert probe.loc["900", "resnet50-bs32 (published)"] == "95.23 / 52"
    table = tables.reproduced_table(tested)
    published = table[table["source"] == "published"]
    assert published["accuracy"].tolist() == [95.10, 94.86, 95.30]
    assert (table["source"] != "published").sum() == 2
    assert len(tables.published_table("classes")) == 87


def test_unfinished_runs_are_left_out(workbook, tiny_config):
    run = pretrain(tiny_config)
    assert tables.probe_table([run]).columns.tolist() == ["checkpoint"]
    assert tables.test_table([run]).empty and len(tables.cost_table([run])) == 1
    assert tables.accuracy_table([run]).empty
