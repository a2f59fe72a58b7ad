import base64
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import nbformat
import pandas as pd
import pytest
from nbformat import v4

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.reporting.report import describe_report, reported_data_sets, write_report
from thesis_lib.reporting.report.cleaning import cleaned
from thesis_lib.reporting.report.rendering import read_notebook, rendered
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.paths import data_runs_folder
from thesis_lib.workbook import receipts
from thesis_lib.workbook.receipts import STAGE_OF, receipt_file, write_receipt

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJg"
    "gg=="
)
EVIL = "<script>alert(1)</script>"
CONFIG = RunConfig(data="data/tiny", backbone="lenet5", batch_size=8, epochs=3)
OTHER = CONFIG.updated(batch_size=16)
DATA_NOTEBOOKS = ("01_data_stats", "06_thesis_tables")


class Page(HTMLParser):
    """Parse a page into its tags, link targets and text, and check that every tag is closed."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.ids, self.targets, self.text, self.open = [], [], [], "", []
        self.alts, self.headings = [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        for name in ("src", "href", "action", "data", "poster", "srcset", "background"):
            self.targets += [attributes[name]] if name in attributes else []
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        self.alts += [attributes.get("alt")] if tag == "img" else []
        self.headings += [""] if re.fullmatch("h[1-6]", tag) else []
        if tag not in ("meta", "link", "br", "hr", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            self.headings[-1] += data


def shown(kind, content):
    return v4.new_output("display_data", {kind: content, "text/plain": "<Figure>"})


def notebook(title, *cells, ended="2026-01-02T03:04:05.000006+00:00", parameters=None):
    first = v4.new_markdown_cell(f"# {title}\n\n**Asks** something.")
    last = v4.new_markdown_cell("## Done\n\nThe end."), v4.new_code_cell("write_receipt('x', c)")
    content = v4.new_notebook(cells=[first, *cells, *last])
    content.metadata["papermill"] = {"end_time": ended, "parameters": parameters or {}}
    return content


def cell(*outputs, source="table"):
    return v4.new_code_cell(source, outputs=list(outputs))


def put(name, config, content=None, failed=False, receipt=True):
    """Write an executed copy of a notebook, as `thesis run` does."""
    file = receipt_file(name, config).with_name(f"{name}{'.failed' if failed else ''}.ipynb")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure = cell(shown("image/png", PIXEL), source="figures.draw()")
    heading = v4.new_markdown_cell("## Accuracy & loss\n\nLook.")
    nbformat.write(content or notebook(name.replace("_", " "), heading, figure), file)
    if receipt and not failed:
        write_receipt(name, config)
    return file


def missing(name, config):
    receipt_file(name, config).with_name(f"{name}.ipynb").unlink()


@pytest.fixture
def executed(workbook, monkeypatch):
    """A data set with two runs whose notebooks have all been executed and are up to date."""
    monkeypatch.setattr(receipts, "is_done", lambda run, stage: True)
    monkeypatch.setattr(receipts, "inputs_digest", lambda run, stage: repr(run.config))
    for config, commit in ((CONFIG, "c0ffee"), (OTHER, "c0ffee-dirty")):
        run = RunDirectory(config)
        run.write_config()
        entry = {"stage": "pretrain", "git_commit": commit, "data_fingerprint": "f1n9e7"}
        run.provenance_file.write_text(json.dumps([entry, entry]))
        for name in STAGE_OF:
            put(name, config)
    for name in DATA_NOTEBOOKS:
        put(name, CONFIG)
    return workbook


def read(**options):
    html = write_report("tiny", **options).read_text(encoding="utf-8")
    return html, Page(html)


def test_page_loads_nothing_from_elsewhere(executed):
    link = v4.new_markdown_cell(
        "[Khosla](https://arxiv.org/abs/2004.11362) ![far](https://far.away/x.png) <https://a.b>"
    )
    outside = shown("text/html", '<img src="http://far.away/y.png"><a href="z.pdf">plot</a>')
    put("01_data_stats", CONFIG, notebook("01", link, cell(outside)))
    html, page = read()
    assert page.targets and all(t.startswith(("#", "data:")) for t in page.targets)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert "url(" not in html and "@import" not in html
    assert "Khosla (https://arxiv.org/abs/2004.11362)" in page.text
    assert "default-src 'none'" in html


def test_links_lead_to_anchors_that_exist_once(executed):
    _, page = read()
    assert len(page.ids) == len(set(page.ids))
    assert {t[1:] for t in page.targets if t.startswith("#")} <= set(page.ids)
    assert page.tags.count("h1") == 1
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_data_set_first_then_each_run(executed):
    _, page = read()
    names = [h for h in page.headings if h[:1].isdigit() or "bs" in h]
    per_run = ["02 supcon pretraining", "03 checkpoint probing", "04 final test"]
    per_run.append("05 cosine retrieval")
    runs = ["lenet5-bs16-seed42", "lenet5-bs8-seed42"]
    of_data = ["01 data stats", "06 thesis tables"]
    assert names == [*of_data, runs[0], *per_run, runs[1], *per_run]
    assert "All 10 notebooks ran to their end" in page.text
    for fact in ("2026-01-02 03:04 UTC", "c0ffee", "c0ffee-dirty", "f1n9e7"):
        assert fact in page.text


def test_figures_are_embedded_and_named_after_their_heading(executed):
    html, page = read()
    assert html.count(f'src="data:image/png;base64,{PIXEL}"') == 10
    assert "Accuracy & loss: 03 checkpoint probing (lenet5-bs8-seed42)" in page.alts
    assert all(page.alts)


def test_code_can_be_opened_and_the_receipt_is_left_out(executed):
    html, page = read()
    assert '<details class="code"><summary>Code</summary><pre>figures.draw()</pre>' in html
    assert "write_receipt" not in page.text and "The end." not in page.text


def test_same_notebooks_give_the_same_bytes(executed):
    first = write_report("tiny").read_bytes()
    assert write_report("tiny", executed / "elsewhere.html").read_bytes() == first


def test_names_and_prints_are_shown_and_not_executed(executed):
    names = [EVIL, "a & b", "\"quoted\" 'name'", "x < y"]
    table = pd.DataFrame({"class": names, "images": 1})
    raw = shown("text/html", f"<div><b>{EVIL}</b></div></div><table><tr><td onclick='x()'>open")
    printed = [
        v4.new_output("stream", name="stdout", text="\x1b[31mred\x1b[0m <b>\x08\n 10 %\r100 %\n"),
        v4.new_output("stream", name="stdout", text=f"{EVIL}\n"),
    ]
    content = notebook(
        f"01 {EVIL}",
        v4.new_markdown_cell(f"## Of `{EVIL}` & <i>more</i>\n\n{EVIL}"),
        cell(shown("text/html", table._repr_html_())),
        cell(raw),
        cell(*printed, source=f"name = '{EVIL}'"),
    )
    put("01_data_stats", CONFIG, content)
    html, page = read()
    assert "script" not in page.tags
    # The title and the heading, again in the contents; paragraph, two tables, print and code.
    assert page.text.count(EVIL) == 2 * 2 + 5
    assert all(name in page.text for name in names)
    assert '<span class="ansi-red-fg">red</span> &lt;b&gt;\n100 %\n' in html
    assert " 10 %" not in page.text and "\x1b" not in html and "\x08" not in html
    assert ".dataframe" not in html  # the style that pandas gives each table


def test_long_prints_are_folded(executed):
    lines = [
        v4.new_output("stream", name="stdout", text=f"epoch {i}/1000\n") for i in range(1, 1001)
    ]
    put("02_supcon_pretraining", CONFIG, notebook("02", cell(*lines)))
    html, _ = read()
    assert html.count("<summary>1,000 printed lines</summary>") == 1


def test_failed_notebook_is_reported_with_the_command_to_run(executed):
    error = v4.new_output(
        "error",
        ename="InputError",
        evalue="head_epochs must be <1>",
        traceback=["\x1b[31mInputError\x1b[0m: head_epochs must be <1>"],
    )
    mark = v4.new_markdown_cell("An Exception was encountered", metadata={})
    mark.metadata["tags"] = ["papermill-error-cell-tag"]
    content = notebook("03 Heads", mark, cell(error), v4.new_markdown_cell("## Never reached"))
    put("03_checkpoint_probing", CONFIG, failed=True, content=content).with_name(
        "03_checkpoint_probing.ipynb"
    ).unlink()
    missing("04_final_test", CONFIG)
    html, page = read()
    assert (
        "This notebook stopped early: InputError: head_epochs must be <1>. The cells" in page.text
    )
    command = "thesis run --data data/tiny --backbone lenet5 --batch-size 8 --epochs 3"
    assert html.count(f"<code>{command}</code>") == 1  # though two notebooks need it
    assert "Never reached" not in page.text and "An Exception" not in page.text
    assert "2 of 10 notebooks" in page.text


def without_receipt(name, config):
    receipt_file(name, config).unlink()


def other_inputs(name, config):
    receipt_file(name, config).write_text(json.dumps({"inputs": "others"}))


@pytest.mark.parametrize("name", ["01_data_stats", "04_final_test"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (missing, "This notebook has not been run."),
        (without_receipt, "There is no confirmation that this notebook ran to its end."),
        (other_inputs, "The files this notebook was computed from have changed since."),
    ],
)
def test_outdated_notebook_is_reported_in_its_section(executed, name, change, told):
    change(name, CONFIG)
    html, page = read()
    place = html[html.index(f'id="{"data-01" if name[:2] == "01" else "run2-04"}"') :]
    assert told in place[: place.index("</section>")]
    assert page.text.count(told) == 1 and "<code>thesis run --data data/tiny" in html


def test_run_that_failed_before_it_began_is_reported(executed):
    config = CONFIG.updated(tag="new")
    parameters = {"data": "data/tiny", "backbone": "lenet5", "batch_size": 8, "tag": "new"}
    content = notebook("02 Train", parameters=parameters)
    put("02_supcon_pretraining", config, content, failed=True)
    _, page = read()
    assert "lenet5-bs8-seed42-new" in page.headings
    assert "its kernel stopped before the last cell" in page.text
    assert "thesis run --data data/tiny --backbone lenet5 --batch-size 8 --tag new" in page.text


def test_run_that_cannot_be_opened_is_reported(executed):
    RunDirectory(CONFIG).config_file.write_text("{")
    _, page = read()
    assert "config.json is not valid JSON" in page.text


def test_data_set_without_val_has_no_notebooks_after_02(executed):
    (executed / "data" / "tiny" / "val").rename(executed / "elsewhere")
    _, page = read()
    assert not any(heading.startswith("04") for heading in page.headings)


def test_runs_on_different_data_are_reported(executed):
    entry = {"data_fingerprint": "0ther"}
    RunDirectory(OTHER).provenance_file.write_text(json.dumps([entry]))
    assert "Different data." in read()[1].text


def test_missing_data_is_reported(executed):
    (executed / "data").rename(executed / "gone")
    assert "data/tiny is missing" in read()[1].text


def test_mistakes_are_one_line_and_leave_the_old_report(executed):
    file = write_report("tiny")
    before = file.read_bytes()
    with pytest.raises(InputError, match="there are no runs on 'tini'; nearest: tiny"):
        write_report("tini")
    copy = data_runs_folder("tiny") / "notebooks" / "06_thesis_tables.ipynb"
    for damage in ("{", "{}", "[]", '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}'):
        copy.write_text(damage)
        with pytest.raises(InputError, match=r"tables\.ipynb is a damaged notebook") as raised:
            write_report("tiny")
        assert "\n" not in str(raised.value)
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


def test_data_set_without_an_executed_notebook_is_refused(workbook):
    with pytest.raises(InputError, match="there are no runs on 'tiny'"):
        write_report("tiny")
    RunDirectory(CONFIG).write_config()
    with pytest.raises(InputError, match="no notebook on tiny has been executed yet"):
        write_report("tiny")
    assert not (workbook / "figures").exists() and reported_data_sets() == ["tiny"]


def test_description_gives_path_and_size(executed):
    line = describe_report(write_report("tiny"))
    assert re.fullmatch(r"figures/tiny/report\.html: one file of 0\.\d MB .*", line)


def test_tags_that_were_left_open_are_closed():
    html, sections = cleaned("<h1>A<p>b</div><table><tr><td colspan='2'>c</h2>", 3, "x")
    Page(f"<div>{html}</div>")
    assert html.startswith('<h3 id="x-1">A<p>b<div class="wide"') and 'colspan="2"' in html
    assert [(s.anchor, s.title) for s in sections] == [("x-1", "Abc")]


def test_svg_is_an_image_that_runs_nothing(tmp_path):
    svg = f'<svg xmlns="http://www.w3.org/2000/svg">{EVIL}</svg>'
    nbformat.write(notebook("01", cell(shown("image/svg+xml", svg))), tmp_path / "x.ipynb")
    blocks, _ = rendered(read_notebook(tmp_path / "x.ipynb"), "a", 2, "here")
    source = re.search('src="data:image/svg[+]xml;base64,([^"]*)"', "".join(blocks))[1]
    assert base64.b64decode(source).decode() == svg
