"""Every number that a chapter quotes, as a LaTeX macro: numbers.tex."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from thesis_lib.errors import InputError
from thesis_lib.evaluation.comparison import compare_with_head
from thesis_lib.evaluation.metrics import METRICS
from thesis_lib.reporting.latex import comment, escape_latex
from thesis_lib.reporting.leak_tables import leak_table, metrics_without_leaks
from thesis_lib.reporting.results import Results, results_of_data, results_of_run
from thesis_lib.reporting.tables import elapsed_words, is_measured, percent
from thesis_lib.runs.artifacts import read_metrics, trained_fingerprint
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_pretrained, is_retrieved, is_tested
from thesis_lib.system.files import read_json, write_text
from thesis_lib.system.paths import find_data

DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")


def macro_name(*words: str) -> str:
    """A LaTeX macro's name, letters alone: ``("test", "bs64")`` -> ``TestBsSixFour``."""
    text = " ".join(words)
    spelt = "".join(f" {DIGITS[int(c)]} " if c in "0123456789" else c for c in text)
    letters = "".join(c if c.isascii() and c.isalpha() else " " for c in spelt)
    return "".join(word[0].upper() + word[1:] for word in letters.split())


def write_numbers(results: Results) -> pd.DataFrame:
    """Write ``numbers.tex``: a macro for each number that the text quotes.

    Args:
        results: of all runs on a data set.

    Returns:
        A row a number: macro, value.
    """
    numbers = chapter_numbers(results)
    head = comment("written by notebook 06; not to be edited") + comment(results.source["line"])
    write_text(results.folder / "numbers.tex", head + numbers_text(numbers))
    rows = [{"macro": f"\\{macro_name(words)}", "value": v} for words, v in numbers.items()]
    return pd.DataFrame(rows, columns=["macro", "value"])


def numbers_text(numbers: Mapping[str, str]) -> str:
    r"""``\newcommand{\name}{value}`` for each number of the text.

    Raises:
        InputError: where two numbers would get the same macro.
    """
    macros: dict[str, str] = {}
    for words, value in numbers.items():
        name = macro_name(words)
        if name in macros:
            raise InputError(
                f"two numbers would be \\{name}, the second being {words!r}: LaTeX has letters "
                "alone for names; give one of the runs another tag"
            )
        macros[name] = value
    lines = [f"\\newcommand{{\\{name}}}{{{escape_latex(v)}}}\n" for name, v in macros.items()]
    return "".join(lines)


def chapter_numbers(results: Results) -> dict[str, str]:
    """Every number that a results chapter quotes: words that name it -> its value, as text."""
    numbers: dict[str, Any] = {}
    for run in results.runs:
        name = run.path.name
        if is_pretrained(run):
            numbers[f"{name} epochs"] = str(run.config.epochs)
            loss = read_metrics(run)[-1]["loss"]
            if not math.isnan(loss):  # nobody knows that of imported checkpoints
                numbers[f"{name} last loss"] = f"{loss:.3f}"
        if is_pretrained(run) and is_measured(run):
            metrics = pd.DataFrame(read_metrics(run))
            numbers[f"{name} elapsed"] = elapsed_words(metrics["seconds"].sum())
            numbers[f"{name} peak memory mib"] = f"{metrics['peak_memory_mib'].max():,.0f}"
        if run.selection_file.is_file():
            selection = read_json(run.selection_file)
            numbers[f"{name} checkpoint"] = str(selection["checkpoint"])
            numbers[f"{name} head epoch"] = str(selection["head_epoch"])
            interval = selection["val_accuracy_interval"]
            numbers[f"{name} val accuracy"] = percent(selection["val_accuracy"])
            numbers[f"{name} val accuracy low"] = percent(interval[0])
            numbers[f"{name} val accuracy high"] = percent(interval[1])
        if is_tested(run):
            test = read_json(run.test_file)
            numbers[f"{name} test images"] = f"{test['n']:,}"
            for metric in METRICS:
                low, high = test[f"{metric}_interval"]
                numbers[f"{name} test {metric}"] = percent(test[metric])
                numbers[f"{name} test {metric} low"] = percent(low)
                numbers[f"{name} test {metric} high"] = percent(high)
            numbers[f"{name} temperature"] = f"{test['temperature']:.2f}"
            numbers[f"{name} calibration error"] = percent(test["calibration_error"])
            numbers[f"{name} scaled calibration error"] = percent(test["calibration_error_scaled"])
        if is_retrieved(run):
            numbers |= _retrieval_numbers(run)
    for pair in results.pairs:
        words = f"{pair.b} minus {pair.a}"
        numbers[f"{words} accuracy"] = percent(pair.difference)
        numbers[f"{words} accuracy low"] = percent(pair.low)
        numbers[f"{words} accuracy high"] = percent(pair.high)
        numbers[f"{words} p"] = f"{pair.p_holm:.3f}" if pair.p_holm >= 0.001 else "< 0.001"
    if results.pairs:
        numbers["pairs of runs"] = str(len(results.pairs))
        numbers["pairs shown to differ"] = str(sum(pair.is_shown for pair in results.pairs))
    if find_data(results.config.data).is_dir():
        numbers |= _data_numbers(results)
    return numbers


def _retrieval_numbers(run: RunDirectory) -> dict[str, str]:
    """What is quoted of a run's look-up table."""
    test, choice = read_json(run.retrieval_test_file), read_json(run.table_choice_file)
    name = f"{run.path.name} table"
    numbers = {
        f"{name} threshold": f"{test['threshold']:.2f}",
        f"{name} images": f"{test['images']:,}",
        f"{name} of images": f"{choice['of_images']:,}",
        f"{name} mib": f"{test['index_mib']:.1f}",
    }
    for metric in METRICS:
        low, high = test[f"{metric}_interval"]
        numbers |= {
            f"{name} test {metric}": percent(test[metric]),
            f"{name} test {metric} low": percent(low),
            f"{name} test {metric} high": percent(high),
        }
    pair = compare_with_head(run)
    if pair is not None:
        numbers |= {
            f"{name} minus head accuracy": percent(pair.difference),
            f"{name} minus head accuracy low": percent(pair.low),
            f"{name} minus head accuracy high": percent(pair.high),
            f"{name} minus head p": f"{pair.p:.3f}" if pair.p >= 0.001 else "< 0.001",
        }
    return numbers


def _data_numbers(results: Results) -> dict[str, Any]:
    """What is counted on the data set itself, and metrics without the images that leak."""
    data = results_of_data(results.config)
    numbers = {"classes": str(len(data.dataset.classes))}
    for split, part in data.dataset.splits.items():
        numbers[f"{split} images"] = f"{len(part):,}"
    for row in leak_table(data.leaks, data.dataset).to_dict("records"):
        numbers[f"leaking test images {row['kind']}"] = f"{row['test images']:,}"
    for run in results.runs:
        if is_tested(run) and trained_fingerprint(run) == data.dataset.fingerprint:
            tested = results_of_run(run, "test")
            kept = metrics_without_leaks(tested.predictions, data.leaks, tested.classes)
            for row in kept[kept["test images"] == "without any leak"].to_dict("records"):
                name = f"{run.path.name} without leaks"
                numbers[f"{name} test images"] = f"{row['images']:,}"
                for metric in METRICS:
                    for end in ("", "_low", "_high"):
                        words = f"{name} test {metric}{end.replace('_', ' ')}"
                        numbers[words] = percent(row[metric + end])
    return numbers
