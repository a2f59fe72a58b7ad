"""Test the files of a table (CSV, Markdown, LaTeX), and that LaTeX compiles them."""

import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from thesis_lib.reporting import latex
from thesis_lib.reporting.latex import escape_latex, first_sentence, latex_table
from thesis_lib.reporting.table_files import markdown, write_table

HOSTILE = pd.DataFrame(
    {"class": ["a_b & c", "50 % #1", "{x}~y^z\\", '[1] <"sp." B>', "a|b"], "f1": [0.5] * 5}
)
SOURCE = {"line": "data set digits (fingerprint 0123); runs: a_b; code: abc", "label": "a_b"}
needs_pdflatex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")


def compiled(folder, body: str) -> subprocess.CompletedProcess:
    """Compile a document that loads the packages needed by tables with pdflatex."""
    packages = "".join(f"\\usepackage{{{name}}}" for name in latex.PACKAGES)
    text = (
        f"\\documentclass[11pt]{{report}}\\usepackage[T1]{{fontenc}}{packages}"
        f"\\setlength{{\\textwidth}}{{160mm}}\\begin{{document}}\n{body}\n\\end{{document}}\n"
    )
    (folder / "main.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    for _ in range(3):  # longtable needs several runs to settle its column widths
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    return run


def test_table_is_written_in_its_forms_with_its_source(tmp_path):
    paths = write_table(HOSTILE, tmp_path / "t", "Hostile & names.", SOURCE)
    assert [path.suffix for path in paths] == [".csv", ".json", ".md", ".tex"]
    pd.testing.assert_frame_equal(pd.read_csv(paths[0]), HOSTILE)
    told = json.loads(paths[1].read_text())
    assert told == {"caption": "Hostile & names.", "source": SOURCE}
    assert r"a\|b" in paths[2].read_text()
    lines = paths[3].read_text().splitlines()
    assert lines[0] == f"% {SOURCE['line']}"
    for needed in (r"\toprule", r"\midrule", r"\bottomrule", r"\label{tab:a_b:t}"):
        assert any(needed in line for line in lines)
    assert any(line.startswith(r"a\_b \& c & 0.50") for line in lines)
    assert r"\caption[Hostile \& names]{Hostile \& names.}" in lines


def test_numbers_stand_in_columns_of_siunitx():
    table = pd.DataFrame(
        {
            "n": [5, 12345],
            "value": [-1.25, np.nan],
            "accuracy": ["95.10 (94.57 to 95.58)", "9.30 (8.00 to 10.10)"],
            "best": ["95.10 / 37 *", ""],
            "time": ["3 d 21 h", "12 min"],
            "name": ["12", "b"],
        }
    )
    lines = latex_table(table, "Caption.", "tab:t", 160, bold=[(1, "accuracy")]).splitlines()
    assert lines[7] == (
        r"\begin{tabular}{S[table-format=5,mode=text]S[table-format=-1.2,mode=text]"
        r"S[table-format=2.2,mode=text]@{\,\,}lS[table-format=2.2,mode=text]@{\,\,}lrl}"
    )
    assert lines[9].startswith(r"{n} & {value} & \multicolumn{2}{c}{accuracy} & \multicolumn{2}")
    assert lines[11] == r"5 & -1.25 & 95.10 & (94.57 to 95.58) & 95.10 & / 37 * & 3 d 21 h & 12 \\"
    assert lines[12] == (
        r"12345 & {--} & \bfseries 9.30 & (8.00 to 10.10) & {--} &  & 12 min & b \\"
    )


def test_a_wide_table_is_turned_and_a_long_one_runs_over_pages():
    wide = pd.DataFrame([["x" * 60] * 4], columns=list("abcd"))
    assert latex_table(wide, "C.", "tab:t", 160).startswith(r"\begin{sidewaystable}")
    assert latex_table(wide[["a"]], "C.", "tab:t", 160).startswith(r"\begin{table}")
    long = pd.DataFrame({"class": ["x" * 120] * 87, "f1": 0.5})
    text = latex_table(long, "C.", "tab:t", 160)
    assert r"\begin{longtable}{>{\raggedright\arraybackslash}p{" in text
    assert text.count(r"\\") == 87 + 4  # caption, two heads, the foot


def test_markdown_keeps_cells_as_they_are():
    table = pd.DataFrame({"run": ["0010", "1.50"], "p": ["+0.10", "a|b"], "x": [1.0, 2.5]})
    rows = [line.split("|") for line in markdown(table, 2, [(1, "x")]).splitlines()]
    assert [cell.strip() for cell in rows[2]] == ["", "0010", "+0.10", "1.00", ""]
    assert rows[3][1].strip() == "1.50" and "**2.50**" in rows[3][-2]


def test_short_caption_is_the_first_sentence():
    assert first_sentence("Metrics of n images, in %. Bold: best.") == "Metrics of n images, in %"
    assert first_sentence("Metrics (95.10 of them).") == "Metrics (95.10 of them)"


@needs_pdflatex
def test_every_table_compiles(tmp_path):
    write_table(HOSTILE, tmp_path / "t", "Hostile & names.", SOURCE)
    tables = {
        "bold": pd.DataFrame(
            {"run": ["a", "b"], "accuracy": ["95.10 (94 to 96)", "9.1 (8 to 10)"]}
        ),
        "long": pd.DataFrame({"class": [f"{i:03d}_{'x ' * 40}" for i in range(87)], "f1": 0.51234}),
        "wide": pd.DataFrame([["Longish words here" * 3] * 4], columns=list("abcd")),
        "comparison": pd.DataFrame(
            {
                "run a": [f"seresnext50_32x4d-bs32-seed{i}-long_tag" for i in range(66)],
                "run b": [f"test_resnet-bs64-seed{i}" for i in range(66)],
                "b - a (points)": "-0.73 (-2.11 to +0.65)",
                "only a right": 10,
                "only b right": 20,
                "p": "0.0625",
                "p (Holm)": "1",
                "shown": "no",
            }
        ),
        "many_runs": pd.DataFrame(
            {"checkpoint": [1000, 950]}
            | {f"resnet50-bs32-seed{i}": ["95.10 / 37 *", "94.00 / 9"] for i in range(12)}
        ),
        "infinite": pd.DataFrame({"split": ["val"], "ratio": [np.inf]}),
        "empty_cells": pd.DataFrame({"a": ["", "*"], "b": [np.nan, -0.001], "c": [1, 20000]}),
    }
    body = "\\input{t}\n"
    for name, table in tables.items():
        write_table(table, tmp_path / name, f"Table {name}.", SOURCE, 3, [(0, table.columns[1])])
        body += f"\\input{{{name}}}\n"
    special = escape_latex("&%$#_{}\\~^<>|…`--" + '"')
    done = compiled(tmp_path, f"{body}\n{special}")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout, done.stdout[-3000:]
