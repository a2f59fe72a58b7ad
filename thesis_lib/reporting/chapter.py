"""Write the results chapter: every figure and table of a data set, with captions, as LaTeX."""

from collections.abc import Iterable
from pathlib import Path

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError, nearest
from thesis_lib.reporting.catalogue.figures import FIGURES
from thesis_lib.reporting.latex import PACKAGES, comment, escape_latex, first_sentence
from thesis_lib.reporting.results import (
    Results,
    data_results,
    reopen,
    results_of_run,
    results_of_runs,
)
from thesis_lib.reporting.sources import FILES, RUN_PARTS
from thesis_lib.reporting.table_files import read_source
from thesis_lib.reporting.tables.training_worth import is_untrained
from thesis_lib.runs.directory import find_runs
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import write_text
from thesis_lib.system.paths import figures_folder, relative_to_root

BODY, DOCUMENT, NUMBERS = "chapter_body.tex", "chapter.tex", "numbers.tex"
# For each part, its tables (t/) and figures (f/) in the order of the chapter.
ORDER = {
    "data": (
        *("f/class_counts", "t/class_counts", "t/imbalance", "f/image_sizes", "t/channels"),
        *("f/visible_share", "f/size_spectrum", "f/sample_images", "t/leakage"),
        "f/leaking_pairs",
    ),
    "comparison": (
        *(
            "t/test",
            "t/large_classes",
            "t/strata",
            "f/runs_accuracy",
            "f/class_f1",
            "t/class_f1",
            "t/comparison_matrix",
            "t/comparison",
        ),
        *("t/seeds", "f/seeds", "t/seed_pairs"),
        *("t/choices", "t/balance", "t/elsewhere", "t/training_worth", "f/accuracy_against_hours"),
        *("t/retrieval", "t/retrieval_size", "t/probe", "t/published_probe", "t/reproduced"),
        "t/cost",
        *(f"f/{name}" for name in FIGURES if name.startswith("loss_curves")),
    ),
    "splits": ("t/splits", "f/splits", "t/split_pairs", "t/split_loss"),
    "pretrain": ("f/views", "f/pretraining"),
    "probe": (
        *("t/probe", "t/selection", "f/checkpoint_accuracy", "f/head_curves"),
        "f/head_learning_rates",
    ),
    "test": (
        *("t/test", "t/large_classes", "t/strata", "t/by_size", "t/by_group", "t/taxa", "t/living"),
        *("t/counted_as_zero", "t/choices", "t/without_leaks"),
        "f/confusion_matrix",
        *(
            "f/confusion_matrix_counts",
            "t/most_confused",
            "t/per_class",
            "f/class_f1",
            "f/per_class_f1",
        ),
        *("f/reliability", "f/rejection", "t/rejection", "t/rejection_by_class"),
        *("f/worst_mistakes", "f/embedding"),
    ),
    "retrieve": (
        *("t/table_choice", "t/retrieval", "t/retrieval_size", "f/retrieval_curve"),
        *("t/retrieval_curve", "t/retrieval_test_curve", "t/published_lookup"),
        *("f/nearest_images", "f/learning_curve", "t/learning_curve", "t/ood", "f/ood"),
    ),
}
FEW_PAIRS = 6  # with more pairs, only significant differences are listed one by one
# Let LaTeX break names after "_", as it does after "-", in headings too.
BREAKABLE = "\\begingroup\\sloppy\\protected\\def\\_{\\textunderscore\\allowbreak}\n"
PAGE_MM = 254.0  # text height on A4; a full-page figure leaves 24 mm of it for its caption
# The only characters above Latin Extended-A that pdfLaTeX's T1 fonts contain.
TYPOGRAPHIC = "–—‘’‚“”„†‡•…‰‹›€™"


def write_chapter(data_name: str) -> list[Path]:
    """Write ``chapter.tex``, a complete document, and ``chapter_body.tex``, to include in a thesis.

    They contain every figure and table in ``figures/<data>/`` and its run folders.

    Args:
        data_name: the name of the data set.

    Returns:
        Both files.

    Raises:
        InputError: if the data set has no figures yet, or its tables do not show the runs that
            have been tested.
    """
    folder = figures_folder(data_name)
    if not any(folder.glob("*.pdf")):
        known = [path.name for path in figures_folder("").glob("*") if path.is_dir()]
        raise InputError(
            f"{relative_to_root(folder)} contains no figures{nearest(data_name, known)}; first "
            "run the notebooks with `thesis run`"
        )
    _check_runs(data_name)
    texts = chapter_text(data_name)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _check_runs(data_name: str) -> None:
    """Raise InputError if the tables do not show exactly the runs that have been tested."""
    file = figures_folder(data_name) / "test.json"
    if not file.is_file():
        return
    shown = {
        name for name, facts in read_source(file)["runs"].items() if "test.json" in facts["files"]
    }
    tested = {run.path.name for run in find_runs(data_name) if is_done(run, "test")}
    if shown != tested:
        raise InputError(
            f"the tables in {relative_to_root(file.parent)} do not match the tested runs "
            f"({', '.join(sorted(shown ^ tested))}); run notebook 06 again with `thesis run`"
        )


def chapter_text(data_name: str) -> dict[str, str]:
    """Return the content of each file of the chapter, by file name."""
    folder, parts = figures_folder(data_name), chapter_parts(data_name)
    body = comment("written by `thesis chapter`; do not edit, it will be overwritten")
    body += _body(parts)
    folders = [folder, *(results.folder for results in parts if results.part == "splits")]
    printed = "".join(map(_printed_tables, folders))
    return {DOCUMENT: _document(body + printed, parts[0].config), BODY: body}


def chapter_parts(data_name: str) -> list[Results]:
    """Return the results of the data set, of all runs, and of each part of each run."""
    settings = _settings(figures_folder(data_name))
    config = RunConfig(**{"data": f"data/{data_name}", **settings})
    everything = results_of_runs(config)
    of_runs = [results_of_run(run, part) for run in everything.runs for part in RUN_PARTS]
    return [data_results(config), everything, *_of_splits(data_name), *of_runs]


def _of_splits(data_name: str) -> list[Results]:
    """Return the comparisons of the data set with other splits, in ``figures/<data>+<n>/``."""
    folders = sorted(figures_folder("").glob("*+*"))
    files = [path / "splits.json" for path in folders if path.name.startswith(f"{data_name}+")]
    return [reopen(read_source(file)) for file in files if file.is_file()]


def _settings(folder: Path) -> dict:
    """Read the settings with which notebook 01 wrote its tables."""
    file = folder / "leakage.json"
    if not file.is_file():
        return {}
    source = read_source(file)
    return {"data": source["data"], **source["settings"]}


def _body(parts: list[Results]) -> str:
    data, everything, *of_runs = parts
    name = escape_latex(data.config.data_name)
    text = f"{BREAKABLE}\\chapter{{Results on {name}}}\n\n"
    text += f"{_section('The data set')}{_shown(data)}"
    text += f"\\clearpage\n{_section('All runs')}{_sentences(everything)}{_shown(everything)}"
    for results in of_runs:
        if results.part == "splits":
            text += f"\\clearpage\n{_section('Several splits of the images')}{_shown(results)}"
            continue
        run = results.run
        if results.part == RUN_PARTS[0]:
            text += f"\\clearpage\n{_section(f'Run {run.path.name}')}"
        text += _shown(results)
    return f"{text}\\endgroup\n"


def _section(title: str) -> str:
    """Format a section heading, and keep LaTeX from placing the section's figures above it."""
    return f"\\section{{{escape_latex(title)}}}\n\\suppressfloats[t]\n"


def _sentences(everything: Results) -> str:
    """Summarise the comparison of all pairs of runs as a list of sentences."""
    tested = [run for run in everything.runs if is_done(run, "test")]
    pairs = everything.pairs
    listed_pairs = pairs if len(pairs) <= FEW_PAIRS else [pair for pair in pairs if pair.is_shown]
    if not pairs:
        return ""
    items = [f"{pair.sentence}." for pair in listed_pairs]
    others = len(pairs) - len(listed_pairs)
    if others:
        items.append(f"In the other {others} pairs, the difference is not significant.")
    listed = "".join(f"\\item {escape_latex(item)}\n" for item in items)
    intro = f"{len(tested)} runs were tested on the same images."
    if len({is_untrained(run) for run in tested}) > 1:
        intro += f" {escape_latex(everything.worth_sentence)}"
    return f"{intro}\n\\begin{{itemize}}\n{listed}\\end{{itemize}}\n\n"


def _shown(results: Results) -> str:
    """Include the existing figures and tables of a part, each with its caption."""
    of_all = {"data": "", "comparison": "", "splits": f"../{results.folder.name}/"}
    of_one = results.part in RUN_PARTS
    below = f"{results.run.path.name}/" if of_one else of_all[results.part]
    text, needed = "", FILES[results.part] if of_one else ()
    for entry in ORDER[results.part]:
        kind, name = entry.split("/")
        if kind == "t" and (results.folder / f"{name}.tex").is_file():
            text += f"\\input{{\\resultsfolder {below}{name}}}\n"
        there = all(getattr(run, file).is_file() for run in results.runs for file in needed)
        if kind == "f" and there and (results.folder / f"{name}.pdf").is_file():
            text += _figure(f"{below}{name}", FIGURES[name].caption(results))
    return text


def _figure(path: str, caption: str) -> str:
    label = path.replace("/", ":")
    return (
        "\\begin{figure}[htbp]\n\\centering\n"
        f"\\includegraphics{{\\resultsfolder {path}.pdf}}\n"
        f"\\caption[{escape_latex(first_sentence(caption))}]{{{escape_latex(caption)}}}\n"
        f"\\label{{fig:{label}}}\n\\end{{figure}}\n"
    )


def _printed_tables(folder: Path) -> str:
    paths = (path for path in sorted(folder.rglob("*.tex")) if path.name not in (DOCUMENT, BODY))
    return "".join(path.read_text(encoding="utf-8") for path in paths)


def _document(text: str, config: RunConfig) -> str:
    """Wrap the body in a document that has the text width of the thesis."""
    margin = (210 - config.text_width) / 2
    lines = [
        comment("written by `thesis chapter`; compile it in its folder with pdflatex or lualatex"),
        comment(f"to include it in a thesis: load the packages below and \\input {BODY}"),
        "\\documentclass[11pt]{report}",
        f"\\usepackage[a4paper,textwidth={config.text_width:g}mm,left={margin:g}mm,"
        f"textheight={PAGE_MM:g}mm,top=20mm]{{geometry}}",
        "\\usepackage{iftex}",
        "\\ifPDFTeX\\usepackage[T1]{fontenc}\\usepackage{textcomp}\\usepackage{lmodern}\\fi",
        f"\\usepackage{{{','.join(PACKAGES)}}}",
        "\\usepackage[font=small]{caption}",
        *_unknown_letters(text),
        f"\\newcommand{{\\resultsfolder}}{{}}  {comment('folder of the figures, ending with /')}",
        f"\\IfFileExists{{{NUMBERS}}}{{\\input{{{NUMBERS}}}}}{{}}",
        "\\begin{document}",
        f"\\input{{{BODY}}}",
        "\\end{document}",
    ]
    return "\n".join(line.rstrip("\n") for line in lines) + "\n"


def _unknown_letters(text: str) -> Iterable[str]:
    """Let pdfLaTeX print characters that its fonts lack as their Unicode numbers."""
    for letter in sorted(set(text)):
        if ord(letter) > 0x17F and letter not in TYPOGRAPHIC:
            yield (
                f"\\ifPDFTeX\\DeclareUnicodeCharacter{{{ord(letter):04X}}}"
                f"{{[U+{ord(letter):04X}]\\allowbreak}}\\fi"
            )
