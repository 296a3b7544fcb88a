"""Answers that the upload script shows in the page, and those that it does not, in a real browser."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import skimage
from flask import redirect, render_template_string, request
from flask_wtf import FlaskForm
from playwright.sync_api import expect
from s3_servers import wait_until
from werkzeug.serving import make_server
from wtforms import StringField

from flask_store.forms import StoreFileField

pytestmark = pytest.mark.browser

HOSTILE = """
<p id="answer">Answer</p>
<img src="data:," onerror="document.documentElement.dataset.ran = 'handler'">
<iframe srcdoc="<script>parent.document.documentElement.dataset.ran = 'srcdoc'</script>"></iframe>
<iframe src="java&#9;script:parent.document.documentElement.dataset.ran = 'url'"></iframe>
"""

# Seconds until a server or a page must have answered.
PATIENCE = 30

HIDDEN = "Everything is sent, but the answer cannot be shown here."
FAILED = "The file could not be stored. Please try again later."
REFUSED = "The file could not be stored."
TOO_LARGE = "The upload is too large."


FORM = """
<form method="post" enctype="multipart/form-data" action="/answer">
  <label for="title">Title</label> {{ form.title }} <label for="photo">Photo</label> {{ form.photo }}
  <button>Send</button>
</form>
"""

PAGE = """<!doctype html>
<html lang="en">
<head><title>{{ title }}</title><link rel="icon" href="data:,">{{ store_upload_script() }}</head>
<body><h1>{{ title }}</h1>CONTENT</body>
</html>
"""


class PhotoForm(FlaskForm):
    title = StringField()
    photo = StoreFileField()


def render(title, content):
    return render_template_string(PAGE.replace("CONTENT", content), title=title, form=PhotoForm(formdata=None))


@pytest.fixture
def answers():
    """What the view at /answer answers, and when."""
    ready = threading.Event()
    ready.set()
    return {"content": HOSTILE, "status": 200, "headers": {}, "ready": ready}


@pytest.fixture
def site(make_app, answers):
    """An application whose own page has no policy, so that every handler in it runs."""
    app = make_app("answers", TESTING=False)
    app.requests = []

    @app.before_request
    def note():
        app.requests.append(f"{request.method} {request.path}")

    @app.get("/")
    def form():
        return render("Add a photo", FORM)

    @app.post("/answer")
    def answer():
        answers["ready"].wait(PATIENCE)
        if "to" in answers:
            return redirect(answers["to"], 303)
        content = answers["text"] if "text" in answers else render("Answer", answers["content"])
        return content, answers["status"], answers["headers"]

    @app.get("/next")
    def next_page():
        return render("Next", "")

    server = make_server("127.0.0.1", 0, app, threaded=True)
    app.url = f"http://127.0.0.1:{server.port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield app
    answers["ready"].set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def page(browser):
    context = browser.new_context()
    context.set_default_timeout(PATIENCE * 1000)
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    yield page
    context.close()
    assert errors == []


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "rocket.jpg"
    path.write_bytes(Path(skimage.data_dir, "rocket.jpg").read_bytes())
    return path


def ask(page, site, photo):
    page.goto(site.url)
    page.get_by_label("Title").fill("Lift-off")
    page.get_by_label("Photo").set_input_files(photo)
    page.get_by_role("button", name="Send").click()


def ran(page):
    return page.evaluate("document.documentElement.dataset.ran ?? ''")


def expect_form(page, sentence):
    """Expect the form as the visitor left it, with a sentence below it."""
    expect(page.locator(".store-upload-text")).to_have_text(sentence)
    expect(page.get_by_label("Title")).to_have_value("Lift-off")
    assert page.evaluate("document.querySelector('#photo').files[0].name") == "rocket.jpg"
    assert page.title() == "Add a photo"
    assert page.locator("form").get_attribute("aria-busy") is None


def test_a_page_without_a_policy_is_shown_and_its_handlers_run_as_the_browser_would_run_them(page, site, photo):
    ask(page, site, photo)

    expect(page.locator("#answer")).to_be_visible()
    wait_until(lambda: ran(page))


@pytest.mark.parametrize(
    "policy",
    [
        "sandbox",
        "sandbox allow-scripts",
        "img-src 'self'; SandBox",
        "script-src 'none'",
        "default-src 'none'",
        "default-src 'self'; script-src",
        "img-src 'self', default-src 'none'",
        "script-src 'none'; script-src 'unsafe-inline'",
    ],
)
def test_an_answer_in_a_sandbox_or_without_scripts_is_not_shown(page, site, photo, answers, policy):
    answers["headers"] = {"Content-Security-Policy": policy}
    ask(page, site, photo)

    expect_form(page, HIDDEN)
    assert ran(page) == ""


@pytest.mark.parametrize(
    "policy",
    [
        "script-src 'self'",
        "default-src 'none'; script-src 'nonce-abc'",
        "script-src 'unsafe-inline' 'nonce-abc'",
        "script-src 'unsafe-inline'; script-src-attr 'none'; script-src-elem 'self'",
        "script-src 'unsafe-inline', script-src 'self'",
    ],
)
def test_what_the_policy_of_an_answer_forbids_does_not_run(page, site, photo, answers, policy):
    # The last image says when the browser came to the others.
    answers["content"] += "<img id='end' src='data:,'><input id='text' value='javascript: 1'>"
    answers["headers"] = {"Content-Security-Policy": policy}
    ask(page, site, photo)

    expect(page.locator("#answer")).to_be_visible()
    wait_until(lambda: page.evaluate("document.querySelector('#end').complete"))
    page.evaluate("new Promise((done) => setTimeout(done))")
    assert ran(page) == ""
    assert page.locator("[onerror], [srcdoc], iframe[src]").count() == 0
    assert page.locator("#text").input_value() == "javascript: 1"


def test_a_policy_that_is_written_in_the_answer_counts(page, site, photo, answers):
    meta = "<meta http-equiv='Content-Security-Policy' content=\"script-src 'none'\">"
    answers["text"] = f"<!doctype html><html><head><title>Answer</title>{meta}</head><body>{HOSTILE}</body></html>"
    ask(page, site, photo)

    expect_form(page, HIDDEN)
    assert ran(page) == ""


def test_a_policy_that_allows_inline_scripts_takes_nothing_away(page, site, photo, answers):
    answers["headers"] = {"Content-Security-Policy": "script-src 'self' 'unsafe-inline'"}
    ask(page, site, photo)

    wait_until(lambda: ran(page))


@pytest.mark.parametrize(
    "disposition, name",
    [
        ('attachment; filename="a b.html"', "a b.html"),
        ("ATTACHMENT; filename=a.html", "a.html"),
        ("attachment; filename=x.html; filename*=UTF-8''%C3%A4.html", "ä.html"),
        ("other; filename=a.html", "a.html"),
    ],
)
def test_an_attachment_is_saved_and_not_shown(page, site, photo, answers, disposition, name):
    answers["headers"] = {"Content-Disposition": disposition}
    with page.expect_download() as download:
        ask(page, site, photo)

    assert download.value.suggested_filename == name
    assert "Answer" in Path(download.value.path()).read_text()
    expect(page.locator(".store-upload")).to_have_count(0)
    assert page.get_by_label("Title").input_value() == "Lift-off"
    assert ran(page) == ""


def test_an_answer_that_is_marked_as_inline_is_shown(page, site, photo, answers):
    answers["headers"] = {"Content-Disposition": "inline; filename=a.html"}
    ask(page, site, photo)

    expect(page.locator("#answer")).to_be_visible()


@pytest.mark.parametrize("kind", ["text/plain", "text/html-sandboxed", "application/json"])
def test_what_is_no_page_is_saved_and_not_shown(page, site, photo, answers, kind):
    answers["text"] = "1 < 2"
    answers["headers"] = {"Content-Type": kind}
    with page.expect_download() as download:
        ask(page, site, photo)

    assert Path(download.value.path()).read_text() == "1 < 2"
    assert page.get_by_label("Title").input_value() == "Lift-off"


@pytest.mark.parametrize(
    "status, sentence",
    [(413, TOO_LARGE), (400, REFUSED), (403, REFUSED), (429, FAILED), (500, FAILED), (502, FAILED), (504, FAILED)],
)
def test_an_error_without_the_form_leaves_the_form_and_says_so(page, site, photo, answers, status, sentence):
    answers["status"] = status
    ask(page, site, photo)

    expect_form(page, sentence)
    assert page.url == f"{site.url}/"

    answers["status"] = 200
    page.get_by_role("button", name="Send").click()

    expect(page.locator("#answer")).to_be_visible()


@pytest.mark.parametrize("text, headers", [("", {}), ("no", {"Content-Type": "text/plain"})])
def test_an_error_that_is_no_page_leaves_the_form_too(page, site, photo, answers, text, headers):
    answers.update(status=503, text=text, headers=headers)
    ask(page, site, photo)

    expect_form(page, FAILED)


@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_an_error_with_the_form_is_shown(page, site, photo, answers, status):
    answers.update(status=status, content=FORM)
    ask(page, site, photo)

    expect(page.get_by_role("heading")).to_have_text("Answer")
    expect(page.get_by_label("Photo")).to_be_visible()


def test_an_error_with_the_form_is_not_shown_where_its_policy_is_a_sandbox(page, site, photo, answers):
    answers.update(status=422, content=FORM, headers={"Content-Security-Policy": "sandbox"})
    ask(page, site, photo)

    expect_form(page, REFUSED)


@pytest.mark.parametrize("answer", ["page", "redirect", "download"])
def test_nothing_happens_to_a_page_that_the_form_has_left(page, site, photo, answers, answer):
    if answer == "redirect":
        answers["to"] = "/next"
    if answer == "download":
        answers["headers"] = {"Content-Disposition": "attachment"}
    downloads = []
    page.on("download", lambda download: downloads.append(download))
    answers["ready"].clear()
    ask(page, site, photo)
    wait_until(lambda: "POST /answer" in site.requests)
    page.evaluate("document.body.innerHTML = '<p id=other>Another view</p>'")
    with page.expect_event("requestfinished", lambda request: request.method == "POST"):
        answers["ready"].set()
    # The next message round comes after what the answer would have started.
    page.evaluate("new Promise((done) => setTimeout(done, 100))")

    assert page.locator("#other").inner_text() == "Another view"
    assert page.title() == "Add a photo"
    assert page.url == f"{site.url}/"
    assert downloads == []
    assert "GET /next" not in site.requests
