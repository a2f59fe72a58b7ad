"""Test the widget of the executed notebook 04 in JupyterLab, with a headless browser."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import nbformat
import papermill
import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from tests.conftest import CLASSES, TINY, write_classes
from thesis_lib.config import RunConfig
from thesis_lib.data.splits import split_dataset
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.reporting.report.rendering import rendered
from thesis_lib.runs.artifacts import read_predictions
from thesis_lib.training.pretraining import pretrain

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"
CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SECONDS = 120  # timeout for every step


@contextmanager
def jupyterlab(root: Path, own: Path):
    """Serve a folder with JupyterLab, with its own settings, and yield the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {f"JUPYTER_{kind}_DIR": str(own / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": root,
        "ServerApp.allow_root": True,
        "IdentityProvider.token": "",
        "LabApp.expose_app_in_browser": True,
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    settings = own / "CONFIG/lab/user-settings/@jupyterlab/apputils-extension"
    settings.mkdir(parents=True)
    quiet = {
        "fetchNews": "false",
        "checkForUpdates": False,
    }  # otherwise JupyterLab asks for permission and fetches news
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    with open(own / "server.log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", *arguments],
            env={**os.environ, **folders},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{address}/api/status"), server, own / "server.log")
        yield address
    finally:
        server.send_signal(signal.SIGTERM)  # the server then stops its kernels
        try:
            server.wait(SECONDS / 2)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def wait_for(condition, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert server.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.1)


@contextmanager
def browser(profile: Path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--window-size=1400,1200",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER))
    try:
        driver.set_script_timeout(SECONDS)
        driver.set_page_load_timeout(SECONDS)
        # JupyterLab's commands act on the focused widget; a headless page needs this for focus.
        driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
        yield driver
    finally:
        driver.quit()


class Notebook:
    """A notebook that is open in JupyterLab."""

    def __init__(self, driver, address: str, path: str) -> None:
        self.driver, self.wait = driver, WebDriverWait(driver, SECONDS, poll_frequency=0.1)
        driver.get(f"{address}/lab/tree/{quote(path)}")
        self.until(
            "const shown = window.jupyterapp && window.jupyterapp.shell.currentWidget;"
            "const session = shown && shown.sessionContext && shown.sessionContext.session;"
            "return Boolean(session && session.kernel && shown.content.widgets.length)"
        )

    def until(self, script: str, *arguments):
        """Wait until a script returns a true value, and return that value."""
        return self.wait.until(lambda driver: driver.execute_script(script, *arguments))

    def run_all(self) -> None:
        """Run all cells to their end, as the menu does."""
        self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "window.jupyterapp.commands.execute('notebook:run-all-cells').then(done, done)"
        )

    def content(self) -> nbformat.NotebookNode:
        """Return the current content of the notebook."""
        script = "return window.jupyterapp.shell.currentWidget.model.toJSON()"
        return nbformat.from_dict(self.driver.execute_script(script))

    def click(self, selector: str) -> None:
        """Click a button as a user would; fail if something covers it."""
        button = self.until("return document.querySelector(arguments[0])", selector)
        centre = "arguments[0].scrollIntoView({block: 'center', inline: 'center'})"
        self.driver.execute_script(centre, button)
        button.click()


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A workbook with a probed run: its root, the run, and notebook 04 executed by papermill."""
    root = tmp_path_factory.mktemp("workbook")
    (root / "notebooks").mkdir()
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        shutil.copy(notebook, root / "notebooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_classes(root / "classes")
        split_dataset(root / "classes", root / "data" / "tiny")
        run = pretrain(RunConfig(**TINY))
        probe_checkpoints(run)
        run.notebooks.mkdir()
        path = run.notebooks / "04_final_test.ipynb"
        names = {name: TINY[name] for name in ("data", "backbone", "batch_size")}
        papermill.execute_notebook(
            root / "notebooks" / path.name, path, names, cwd=root, progress_bar=False
        )
        yield root, run, path


def outputs_of(notebook: nbformat.NotebookNode, cell_id: str) -> list[nbformat.NotebookNode]:
    (cell,) = (cell for cell in notebook.cells if cell.id == cell_id)
    return cell.outputs


def test_papermill_leaves_a_picture_and_no_widget(executed):
    notebook = nbformat.read(executed[2], 4)
    assert "widgets" not in notebook.metadata
    (output,) = outputs_of(notebook, "pictures")
    assert set(output.data) == {"image/png", "text/plain"}
    blocks, _ = rendered(notebook, "04", 2, "a run")
    assert sum("<figure>" in block for block in blocks) == sum(
        "image/png" in output.get("data", ())
        for c in notebook.cells
        for output in c.get("outputs", ())
    )


@pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None,
    reason="needs chromium and chromedriver: apt-get install chromium chromium-driver",
)
def test_click_on_a_cell_opens_the_pictures_behind_it(executed, tmp_path):
    root, run, path = executed
    predictions = read_predictions(run).sort_values("confidence", ascending=False, kind="stable")
    right = predictions[predictions["true"] == predictions["predicted"]]
    name = right["true"].value_counts().index[0]
    expected = [Path(file).name for file in right.loc[right["true"] == name, "path"]][:24]
    number = sorted(CLASSES).index(name)

    with jupyterlab(root, tmp_path / "own") as address, browser(tmp_path / "profile") as driver:
        notebook = Notebook(driver, address, path.relative_to(root).as_posix())
        notebook.run_all()
        executed_again = notebook.content()
        errors = [o for c in executed_again.cells for o in c.get("outputs", []) if "ename" in o]
        assert not errors, errors
        (output,) = outputs_of(executed_again, "pictures")
        assert "application/vnd.jupyter.widget-view+json" in output.data
        notebook.click(f".thesis-matrix .row-{number}.column-{number}")
        shown = notebook.until(
            "const images = [...document.querySelectorAll('.thesis-explorer img')];"
            "const heading = document.querySelector('.thesis-explorer .thesis-heading');"
            "const opened = heading && heading.textContent.startsWith(arguments[0]);"
            "const drawn = images.every(image => image.complete && image.naturalWidth > 0);"
            "return opened && drawn && images.map(image => image.alt)",
            f"true: {name}, predicted: {name} ",
        )
    assert shown == expected
