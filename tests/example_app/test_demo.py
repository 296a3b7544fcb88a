"""The demonstration of S3, as somebody runs it who has none: one command, in a folder with the album."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).parent.parent.parent

# Seconds until a server or a page must have answered.
PATIENCE = 30

APPLICATION = 'example_app:create_app("s3-demo")'

TWO_ALBUMS = """
import io, sys
from example_app import create_app
from flask_store import Provider
from werkzeug.datastructures import FileStorage

first, second = (create_app("s3-demo", instance_path=sys.argv[1]) for _ in range(2))
with first.app_context():
    Provider().save(FileStorage(io.BytesIO(b"coffee"), "coffee.png"))
for app in (first, second):
    with app.app_context():
        print(*Provider().list())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with nothing in it but the album."""
    folder = tmp_path / "folder"
    shutil.copytree(ROOT / "example_app", folder / "example_app", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def temporary(tmp_path: Path, environment: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files of the programs that a test starts."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    environment.setenv("TMPDIR", str(directory))
    return directory


class Run:
    """A ``flask run``."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def said(self, pattern: str) -> str:
        """Return the first group of a pattern as soon as the log has it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            is_over = self.process.poll() is not None
            if found := re.search(pattern, self.log.read_text()):
                return found[1]
            if is_over:
                break
            time.sleep(0.05)  # between two looks, until the deadline: a log tells nobody that it has grown
        pytest.fail(f"it never said {pattern}:\n{self.log.read_text()}")

    @property
    def address(self) -> str:
        return self.said(r"Running on (http://127\.0\.0\.1:\d+)")

    def stop(self) -> None:
        """End it as Ctrl+C does: in a terminal the signal goes to every process."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(timeout=PATIENCE)


@pytest.fixture
def run(folder: Path, temporary: Path) -> Iterator[Callable[..., Run]]:
    """Return a function that runs the demonstration; what it started ends with the test."""
    with ExitStack() as running:

        def run(*options: str) -> Run:
            log = folder.parent / "flask.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "flask", "--app", APPLICATION, *options, "run", "--port", "0"],
                    cwd=folder,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            running.callback(end, process)
            return Run(process, log)

        yield run


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    context.set_default_timeout(PATIENCE * 1000)
    yield context.new_page()
    context.close()


def add(page: Page, address: str, title: str, photo: Path) -> None:
    page.goto(f"{address}/add")
    page.get_by_label("Title").fill(title)
    page.get_by_label("Photo").set_input_files(photo)
    page.get_by_role("button", name="Add to the album").click()


@pytest.mark.browser
@pytest.mark.parametrize("options", [[], ["--debug"]], ids=["run", "run with the reloader"])
def test_a_photo_goes_to_s3_and_the_page_shows_it_from_there(options, run, page, photograph):
    photo = photograph("coffee.png", "旅行の写真.png")
    demo = run(*options)

    add(page, demo.address, "Morning coffee", photo)

    image = page.get_by_alt_text("Morning coffee", exact=True)
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())
    url = image.get_attribute("src")
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [600, 400]
    assert page.request.get(url).body() == photo.read_bytes()
    # It is not the album's own server that gives it.
    assert urlsplit(url).netloc not in ("", urlsplit(demo.address).netloc)
    assert "X-Amz-Signature=" in url


def test_it_says_where_the_photos_are_and_that_they_will_be_gone(run):
    demo = run()

    assert demo.said(r"A demonstration of S3: .* at (http://127\.0\.0\.1:\d+), and they are gone when it ends\.")


@pytest.mark.browser
def test_nothing_of_a_run_is_left_for_the_next_one(run, page, photograph, folder, temporary):
    demo = run()
    add(page, demo.address, "Morning coffee", photograph("coffee.png"))
    expect(page.get_by_role("article")).to_have_count(1)
    demo.stop()

    assert list(temporary.iterdir()) == []
    assert [path.name for path in (folder / "instance").iterdir()] == ["secret_key"]
    page.goto(run().address)
    expect(page.get_by_text("No photos yet")).to_be_visible()


def test_two_albums_in_one_process_do_not_see_each_others_photos(folder, temporary):
    command = [sys.executable, "-c", TWO_ALBUMS, str(folder / "instance")]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)

    assert result.stdout.splitlines() == ["coffee.png", ""], result.stderr
    assert list(temporary.iterdir()) == []


def test_the_album_on_disk_imports_neither_moto_nor_boto3(folder, temporary):
    program = (
        "import sys; from example_app import create_app; create_app(instance_path=sys.argv[1]); print(*sys.modules)"
    )
    command = [sys.executable, "-c", program, str(folder / "instance")]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=True)

    assert {"moto", "boto3"} & set(result.stdout.split()) == set()


def test_without_moto_it_says_what_to_install(folder, temporary):
    program = 'import sys; sys.modules["moto"] = None; from example_app import create_app; create_app("s3-demo")'
    result = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60)

    assert result.returncode == 1
    assert "NotConfiguredError: the configuration 's3-demo' needs moto: pip install" in result.stderr
    assert not (folder / "instance").exists()
