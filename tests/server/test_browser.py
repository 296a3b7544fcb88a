"""What the serving route sends, in a real browser: it shows what cannot harm, and runs nothing."""

from __future__ import annotations

import io
import time
import wave
from pathlib import Path

import pytest
import skimage

pytestmark = pytest.mark.browser

PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]>>endobj
trailer<</Root 1 0 R>>
"""

SCRIPT = b"<script>document.title = 'run'</script>"


def silence():
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    return file.getvalue()


@pytest.fixture
def page(browser):
    context = browser.new_context()
    context.set_default_timeout(30_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def put(server):
    """Return a function that uploads a file and returns its URL on the server."""

    def put_file(filename, content):
        boundary = "0123456789abcdef"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="photo"; filename="{filename}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        response = server.request("POST", "/", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
        return f"http://127.0.0.1:{server.port}{response.content.decode()}"

    return put_file


def test_an_image_is_shown(page, put):
    page.goto(put("astronaut.png", Path(skimage.data_dir, "astronaut.png").read_bytes()))

    assert page.evaluate("document.images[0].naturalWidth") == 512


def test_a_sound_is_played(page, put):
    page.goto(put("silence.wav", silence()))

    page.wait_for_function("document.querySelector('video, audio').readyState >= 2")
    assert page.evaluate("document.querySelector('video, audio').duration") == 1


def test_a_text_is_shown_as_text(page, put):
    page.goto(put("page.txt", b"<b>bold?</b>" + SCRIPT))

    assert page.inner_text("body") == "<b>bold?</b>" + SCRIPT.decode()
    assert page.title() == ""


def test_a_pdf_is_shown_by_the_browsers_viewer(page, put):
    url = put("page.pdf", PDF)
    page.goto(url)

    # The viewer is a frame of the browser's own, which has the file in a frame in it.
    deadline = time.monotonic() + 30
    while [frame.url.partition(":")[0] for frame in page.frames] != ["http", "chrome-extension", "http"]:
        assert time.monotonic() < deadline, page.frames
        page.wait_for_timeout(50)
    assert page.frames[2].url == url


@pytest.mark.parametrize("filename", ["page.html", "page.svg", "page.xml", "page.xhtml", "script.js", "page.html.gz"])
def test_what_could_run_is_downloaded(page, put, filename):
    with page.expect_download() as download, pytest.raises(Exception, match="Download is starting"):
        page.goto(put(filename, SCRIPT))

    assert Path(download.value.path()).read_bytes() == SCRIPT


def test_a_page_that_calls_itself_an_image_is_no_page(page, put):
    page.goto(put("page.png", b"<!doctype html>" + SCRIPT))

    assert page.title() != "run"
    assert page.evaluate("document.images.length") == 1
