"""The upload script: its tag and its redirects by themselves, and all of it in a real browser under a strict policy."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
from html import unescape
from pathlib import Path

import flask_babel
import pytest
import skimage
import slow_proxy
from flask import Flask, flash, g, redirect, render_template_string, request, url_for
from flask_wtf import FlaskForm
from markupsafe import Markup
from open_files import open_files
from playwright.sync_api import expect
from s3_servers import wait_until
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wsgi import ClosingIterator
from wtforms import StringField
from wtforms.validators import DataRequired

from flask_store import Store, StoreFile
from flask_store.forms import FileAllowed, FileRequired, FileSize, MultipleStoreFileField, StoreFileField
from flask_store.forms.validators import ContentType, FileCount, TotalSize

MIB = 1024 * 1024

# Seconds until a server or a page must have answered.
PATIENCE = 30

POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self'; connect-src 'self'; form-action 'self'; "
    "img-src 'self'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

TOO_LARGE = "The file is too large: at most 1.0 MiB are allowed."
TOO_SMALL = "The file is too small: at least 3 Bytes are needed."
NOT_ALLOWED = "Only these types of files are allowed: jpg, png."

PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>{{ title }}</title>
  <link rel="icon" href="{{ url_for('static', filename='icon.png') }}">
  {{ store_upload_script(g.nonce) }}
</head>
<body class="{{ title|lower|replace(' ', '-') }}">
  <h1>{{ title }}</h1>
  {% for message in get_flashed_messages() %}<p class="flash">{{ message }}</p>{% endfor %}
  {{ content }}
</body>
</html>
"""

FORM = """
<form method="post" enctype="multipart/form-data" action="{{ action }}">
  <label for="title">Title</label> <input id="title" name="title" value="{{ form.title.data or '' }}">
  {% for error in form.title.errors %}<p class="error">{{ error }}</p>{% endfor %}
  <label for="photo">Photo</label>
  {{ form.photo }}
  {% for error in form.photo.errors %}<p class="error">{{ error }}</p>{% endfor %}
  <button name="action" value="send">Send</button>
  <button name="action" value="other" formaction="{{ url_for('elsewhere') }}">Send elsewhere</button>
</form>
"""

SEVERAL = """
<form method="post" enctype="multipart/form-data">
  {{ form.first.label }} {{ form.first }}
  {{ form.photos.label }} {{ form.photos }}
  {% for error in form.photos.errors %}<p class="error">{{ error }}</p>{% endfor %}
  <button>Send</button>
  <button type="reset">Reset</button>
</form>
"""


class PhotoForm(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photo = StoreFileField(validators=[FileRequired(), FileAllowed(["jpg", "png"]), FileSize(MIB, min_size=3)])


class BigForm(FlaskForm):
    title = StringField()
    photo = StoreFileField(validators=[FileRequired()])


class SeveralForm(FlaskForm):
    first = MultipleStoreFileField(validators=[FileCount(max=1)])
    photos = MultipleStoreFileField(
        validators=[ContentType(["image/*", "text/csv"]), FileSize(9), FileCount(max=4), TotalSize(12)]
    )


class QuietHandler(WSGIRequestHandler):
    def log(self, *arguments):
        pass


class Site:
    """An application in Flask's own server, and what it has been asked."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.root = Path(app.instance_path) / "uploads"
        #: Method and path of each request that has begun.
        self.requests: list[str] = []
        #: Requests that have not ended.
        self.active = 0
        self._lock = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._count, threaded=True, request_handler=QuietHandler)
        self.url = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _count(self, environ, start_response):
        with self._lock:
            self.active += 1
            self.requests.append(f"{environ['REQUEST_METHOD']} {environ['SCRIPT_NAME']}{environ['PATH_INFO']}")
        try:
            answer = self.app(environ, start_response)
        except BaseException:
            self._end()
            raise
        return ClosingIterator(answer, self._end)

    def _end(self):
        with self._lock:
            self.active -= 1

    def posts(self):
        return [asked.partition(" ")[2] for asked in self.requests if asked.startswith("POST")]

    def stored(self):
        """Return the path of every file that is in the store, or hidden in it, or held open in it without a name."""
        named = [str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir()]
        return sorted(named) + unnamed_files(self.root)

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def unnamed_files(directory):
    """Return the files in a directory that this process has open and that have no name there."""
    return [path for path in open_files(directory) if path.endswith(" (deleted)")]


def render(title, content, status=200, **context):
    return render_template_string(PAGE, title=title, content=content, **context), status


def show_form(form, title, action=""):
    return render(title, Markup(render_template_string(FORM, form=form, action=action)))


def add_views(app: Flask) -> None:
    @app.before_request
    def make_nonce():
        g.nonce = secrets.token_urlsafe()

    @app.after_request
    def add_policy(response):
        response.headers["Content-Security-Policy"] = POLICY.format(nonce=g.nonce)
        return response

    @app.route("/", methods=["GET", "POST"])
    def add():
        form = PhotoForm()
        if not form.validate_on_submit():
            return show_form(form, "Wrong" if request.method == "POST" else "Add a photo")
        flash(f"{form.photo.data} is stored.")
        return redirect(request.args.get("next") or url_for("done"), 303)

    @app.get("/done")
    def done():
        return render("Done", "")

    @app.route("/big", methods=["GET", "POST"])
    def big():
        form = BigForm()
        if form.validate_on_submit():
            flash(f"{form.title.data}: {form.photo.data}")
            return redirect(url_for("big") + "#end")
        return show_form(form, "Send a large file")

    @app.post("/elsewhere")
    def elsewhere():
        return show_form(PhotoForm(formdata=None), f"Elsewhere with {request.form.getlist('action')}")

    @app.route("/several", methods=["GET", "POST"])
    def several():
        form = SeveralForm(data={"first": [StoreFile("a.jpg")], "photos": [StoreFile("b.jpg"), StoreFile("c.jpg")]})
        form.validate_on_submit()
        return render("Several", Markup(render_template_string(SEVERAL, form=form)))

    @app.get("/posting-to/<name>")
    def posting_to(name):
        return show_form(PhotoForm(), "Add a photo", url_for(name))

    @app.post("/nothing")
    def nothing():
        return "", 204

    @app.get("/download")
    def download():
        return "a,b", {"Content-Disposition": "attachment; filename=table.csv"}

    @app.post("/scripts")
    def scripts():
        content = Markup(
            "<script nonce='{}'>document.title = 'run'</script><noscript><p>No scripts</p></noscript>"
            "<script type='application/json' id='data'>[1]</script><input class='is-invalid' id='wrong'>"
        )
        return render("Scripts", content.format(g.nonce))


@pytest.fixture
def make_site(make_app):
    """Return a function that starts a server for an application with the pages of this module."""
    with contextlib.ExitStack() as stack:

        def make(name="site", prepare=add_views, **config):
            app = make_app(name, TESTING=False, **config)
            prepare(app)
            site = Site(app)
            stack.callback(site.close)
            return site

        yield make


@pytest.fixture
def site(make_site):
    return make_site()


@pytest.fixture
def complaints():
    """What the browser has complained of: nothing, unless the test takes it away."""
    return []


@pytest.fixture
def open_window(browser, complaints):
    """Return a function that opens a window."""
    with contextlib.ExitStack() as stack:

        def open_one(**options):
            context = browser.new_context(viewport={"width": 800, "height": 600}, **options)
            stack.callback(context.close)
            context.set_default_timeout(PATIENCE * 1000)
            page = context.new_page()
            page.on(
                "console",
                lambda message: (
                    complaints.append(message.text + str(message.location)) if message.type == "error" else None
                ),
            )
            page.on("pageerror", lambda error: complaints.append(str(error)))
            return page

        yield open_one
    # What a server answered is no fault of the page.
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []


@pytest.fixture
def page(open_window):
    return open_window()


@pytest.fixture
def photo(tmp_path):
    """A photograph of 109.9 KiB."""
    path = tmp_path / "rocket.jpg"
    path.write_bytes(Path(skimage.data_dir, "rocket.jpg").read_bytes())
    return path


@pytest.fixture
def make_file(tmp_path):
    """Return a function that makes a file of a size in bytes, which takes no space."""

    def make(name, size):
        path = tmp_path / name
        with path.open("wb") as file:
            file.truncate(size)
        return path

    return make


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The directory of temporary files, for this test alone."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


def alert(page):
    return page.locator(".store-file-error[role=alert]")


def position(page):
    """Return how far the bar is: from 0 to 1."""
    return page.get_by_role("progressbar", name="Upload progress").evaluate("bar => bar.position")


def send(page, title, photo):
    page.get_by_label("Title").fill(title)
    page.get_by_label("Photo").set_input_files(photo)
    page.get_by_role("button", name="Send", exact=True).click()


# The server's part, without a browser


def attributes_of(tag):
    return {name: unescape(value) for name, value in re.findall(r'([\w-]+)="([^"]*)"', str(tag))}


def render_tag(app, arguments="", **kwargs):
    with app.test_request_context(**kwargs):
        return render_template_string(f"{{{{ store_upload_script({arguments}) }}}}")


def test_the_tag_loads_the_script_from_the_application_itself(app):
    tag = render_tag(app)
    response = app.test_client().get(attributes_of(tag)["src"])

    assert tag.startswith("<script ") and tag.endswith(" defer data-messages=" + tag.partition("data-messages=")[2])
    assert response.status_code == 200
    assert response.mimetype == "text/javascript"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.data.startswith(b"/* Sends forms")
    response.close()


def test_the_script_may_be_kept_for_a_year_under_its_own_url_and_not_at_all_under_another(app):
    client = app.test_client()
    with (
        client.get(attributes_of(render_tag(app))["src"]) as own,
        client.get("/flask-store/0/store-upload.js") as other,
    ):
        assert own.cache_control.max_age == 365 * 24 * 60 * 60
        assert own.cache_control.immutable
        assert other.status_code == 200
        assert not other.cache_control.max_age
        assert not other.cache_control.immutable


def test_the_tag_carries_a_nonce_and_the_sentences_whatever_is_in_them(app, monkeypatch):
    plain = render_tag(app)
    marked = render_tag(app, "nonce='\"><b>'")

    assert "nonce" not in plain
    assert attributes_of(marked)["nonce"] == '"><b>'
    assert "<b>" not in marked
    assert json.loads(attributes_of(plain)["data-messages"])["cancel"] == "Cancel the upload"


def test_the_sentences_are_in_the_language_of_the_visitor_and_so_are_the_numbers(app):
    flask_babel.Babel(app, locale_selector=lambda: "de_AT")

    messages = json.loads(attributes_of(render_tag(app))["data-messages"])

    assert (messages["cancel"], messages["language"]) == ("Hochladen abbrechen", "de")


def test_the_tag_is_there_in_macros_that_are_imported_without_context(app):
    app.jinja_loader.searchpath[:] = [app.instance_path]
    Path(app.instance_path).mkdir()
    Path(app.instance_path, "macros.html").write_text("{% macro head() %}{{ store_upload_script() }}{% endmacro %}")

    with app.test_request_context():
        assert "<script" in render_template_string("{% from 'macros.html' import head %}{{ head() }}")


def test_the_url_of_the_script_starts_where_the_application_is_mounted(app):
    mounted = attributes_of(render_tag(app, base_url="http://localhost/mount"))

    assert mounted["src"].startswith("/mount/flask-store/")


def test_two_applications_of_one_store_have_the_script_each(tmp_path):
    store = Store()
    apps = [Flask(name, instance_path=str(tmp_path / name)) for name in ("one", "two")]
    for app in apps:
        store.init_app(app)

    tags = [render_tag(app) for app in apps]

    assert tags[0] == tags[1]
    for app, tag in zip(apps, tags, strict=True):
        with app.test_client().get(attributes_of(tag)["src"]) as response:
            assert response.status_code == 200


@pytest.fixture
def ask(make_app):
    """Return a function that asks an application for a redirect, as the script does unless it is told otherwise."""
    app = make_app()

    @app.route("/", methods=["GET", "POST"])
    def view():
        response = redirect(request.args["to"], int(request.args.get("code", 303)))
        response.set_cookie("flash", "seen")
        return response

    def ask(to, code=303, headers=(("X-Store-Upload", "1"),), method="POST"):
        query = {"to": to, "code": code}
        return app.test_client().open("/", method=method, query_string=query, headers=dict(headers))

    return ask


@pytest.mark.parametrize("code", [301, 302, 303])
def test_a_redirect_is_told_to_the_script(ask, code):
    response = ask("/photos?page=2#last", code)

    assert response.status_code == 204
    assert response.headers["X-Store-Location"] == "/photos?page=2#last"
    assert "Location" not in response.headers
    assert "Content-Type" not in response.headers
    assert response.data == b""
    assert "flash=seen" in response.headers["Set-Cookie"]


@pytest.mark.parametrize("to", ["https://elsewhere.example/", "//elsewhere.example/", "photos", "?page=2", "#last"])
def test_a_redirect_is_told_as_it_was(ask, to):
    assert ask(to).headers["X-Store-Location"] == to


def test_a_redirect_to_a_name_in_any_script_is_told_as_a_url(ask):
    assert ask("/写真").headers["X-Store-Location"] == "/%E5%86%99%E7%9C%9F"


@pytest.mark.parametrize("to", ["javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "vbscript:x"])
def test_a_redirect_that_no_browser_follows_is_not_told(ask, to):
    response = ask(to)

    assert response.status_code == 303
    assert "X-Store-Location" not in response.headers


@pytest.mark.parametrize("to", ["http://[x/", "//[x", "http://[::1/"])
def test_a_redirect_to_what_is_no_url_is_a_bad_request(ask, to):
    response = ask(to)

    assert response.status_code == 400
    assert "X-Store-Location" not in response.headers


@pytest.mark.parametrize("code", [307, 308])
def test_a_redirect_of_the_whole_request_stays(ask, code):
    assert (ask("/photos", code).status_code, ask("/photos", code).headers["Location"]) == (code, "/photos")


def test_whoever_is_not_the_script_is_redirected(ask):
    response = ask("/photos", headers=())

    assert (response.status_code, response.headers["Location"]) == (303, "/photos")


def test_a_page_that_somebody_opens_is_redirected_whatever_the_request_says(ask):
    # A cache might keep the answer, and give it to browsers.
    response = ask("/photos", 301, method="GET")

    assert (response.status_code, response.headers["Location"]) == (301, "/photos")


def test_the_package_does_not_load_wtforms_for_the_script():
    code = "import sys, flask_store.script; sys.exit('wtforms' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd="/").returncode == 0


# In the browser


@pytest.mark.browser
def test_a_photo_is_sent_and_the_next_page_flashes_once(page, site, photo):
    page.goto(site.url)
    send(page, "Lift-off", photo)

    expect(page.locator(".flash")).to_have_text("rocket.jpg is stored.")
    assert page.url == f"{site.url}/done"
    assert (site.root / "rocket.jpg").read_bytes() == photo.read_bytes()
    assert site.posts() == ["/"]
    assert site.requests.count("GET /done") == 1
    page.reload()
    expect(page.get_by_role("heading", name="Done")).to_be_visible()
    expect(page.locator(".flash")).to_have_count(0)


@pytest.mark.browser
def test_the_back_button_leads_to_a_form_that_can_be_sent_again(page, site, photo):
    page.goto(f"{site.url}/done")
    page.goto(site.url)
    send(page, "Lift-off", photo)
    expect(page.locator(".flash")).to_have_count(1)

    page.go_back()

    expect(page.get_by_role("heading", name="Add a photo")).to_be_visible()
    expect(page.locator(".store-upload")).to_have_count(0)
    send(page, "Again", photo)
    expect(page.locator(".flash")).to_have_count(1)
    assert len(site.stored()) == 2
    page.go_back()
    page.go_back()
    assert page.url == f"{site.url}/done"


@pytest.mark.browser
def test_errors_are_shown_in_the_form_and_it_can_be_sent_again(page, site, photo):
    page.goto(site.url)
    page.evaluate("window.isSamePage = true")
    page.evaluate("document.addEventListener('store-upload:rendered', () => { window.rendered = document.title })")
    send(page, "", photo)

    expect(page.locator(".error")).to_have_text("This field is required.")
    assert page.title() == "Wrong"
    assert page.evaluate("[window.isSamePage, window.rendered, document.body.className]") == [True, "Wrong", "wrong"]
    assert page.evaluate("document.activeElement.tagName") == "H1"
    assert page.url == f"{site.url}/"
    assert page.locator("script").count() == 1
    assert not (site.root / "rocket.jpg").exists()

    send(page, "Lift-off", photo)

    expect(page.locator(".flash")).to_have_text("rocket.jpg is stored.")
    assert site.posts() == ["/", "/"]
    assert page.evaluate("window.isSamePage") is None
    page.go_back()
    expect(page.get_by_label("Title")).to_be_visible()


@pytest.mark.browser
def test_the_upload_of_a_form_with_errors_is_kept_and_need_not_be_sent_again(page, site, photo):
    page.goto(site.url)
    send(page, "", photo)
    expect(page.locator(".store-file-kept")).to_contain_text("rocket.jpg")

    page.get_by_label("Title").fill("Lift-off")
    page.get_by_role("button", name="Send", exact=True).click()

    expect(page.locator(".flash")).to_have_text("rocket.jpg is stored.")
    assert (site.root / "rocket.jpg").read_bytes() == photo.read_bytes()
    assert len(site.posts()) == 2


@pytest.mark.browser
def test_the_button_that_was_pressed_is_sent_too_and_says_where(page, site, photo):
    page.goto(site.url)
    page.get_by_label("Photo").set_input_files(photo)
    page.get_by_role("button", name="Send elsewhere").click()

    expect(page.get_by_role("heading")).to_have_text("Elsewhere with ['other']")
    assert page.url == f"{site.url}/elsewhere"
    send(page, "Back", photo)
    expect(page.get_by_role("heading")).to_have_text("Elsewhere with ['send']")


@pytest.mark.browser
def test_a_form_without_files_is_sent_by_the_browser(page, site):
    page.goto(site.url)
    page.locator("form").evaluate("form => { form.noValidate = window.isSamePage = true }")
    with page.expect_request(lambda request: request.method == "POST") as sent:
        page.get_by_role("button", name="Send", exact=True).click()

    expect(page.locator(".error")).to_have_count(2)
    assert sent.value.is_navigation_request()
    assert page.evaluate("window.isSamePage") is None


@pytest.mark.browser
@pytest.mark.parametrize(
    "change",
    [
        "form => form.dataset.storeUpload = 'off'",
        "form => form.addEventListener('submit', event => { event.preventDefault(); form.submit() })",
        "form => form.querySelector('[type=file]').removeAttribute('data-store-file')",
    ],
)
def test_a_form_that_is_none_of_the_scripts_is_sent_by_the_browser(page, site, photo, change):
    page.goto(site.url)
    page.locator("form").evaluate(change)
    with page.expect_request(lambda request: request.method == "POST") as sent:
        send(page, "Lift-off", photo)

    expect(page.locator(".flash")).to_have_count(1)
    assert sent.value.is_navigation_request()
    assert len(site.posts()) == 1


@pytest.mark.browser
def test_a_form_that_the_page_itself_holds_back_is_not_sent(page, site, photo):
    page.goto(site.url)
    page.locator("form").evaluate("form => form.addEventListener('submit', event => event.preventDefault())")
    send(page, "Lift-off", photo)

    assert page.locator("form:not([aria-busy])").count() == 1
    assert page.locator(".store-upload").count() == 0
    assert site.posts() == []


@pytest.mark.browser
def test_a_form_that_comes_into_the_page_later_is_sent_too(page, site, photo):
    page.goto(site.url)
    page.evaluate("document.querySelector('form').replaceWith(document.querySelector('form').cloneNode(true))")
    with page.expect_request(lambda request: request.method == "POST") as sent:
        send(page, "Lift-off", photo)

    expect(page.locator(".flash")).to_have_count(1)
    assert sent.value.resource_type == "xhr"


@pytest.mark.browser
def test_inputs_that_are_outside_of_their_form_count(page, site, photo):
    page.goto(site.url)
    page.evaluate(
        """() => {
            document.querySelector("form").id = "form"
            const input = document.querySelector("[type=file]")
            input.setAttribute("form", "form")
            document.body.append(input)
        }"""
    )
    with page.expect_request(lambda request: request.method == "POST") as sent:
        send(page, "Lift-off", photo)

    expect(page.locator(".flash")).to_have_count(1)
    assert sent.value.resource_type == "xhr"


@pytest.mark.browser
@pytest.mark.parametrize(
    "name", ["append", "submit", "action", "setAttribute", "removeAttribute", "compareDocumentPosition"]
)
def test_a_field_may_have_the_name_of_what_forms_can_do(page, site, photo, name):
    page.goto(site.url)
    page.evaluate(
        """name => {
            const input = document.createElement("input")
            input.name = name
            Element.prototype.append.call(document.querySelector("form"), input)
        }""",
        name,
    )
    with page.expect_request(lambda request: request.method == "POST") as sent:
        send(page, "Lift-off", photo)

    expect(page.locator(".flash")).to_have_count(1)
    assert sent.value.resource_type == "xhr"


@pytest.mark.browser
def test_a_large_upload_moves_a_bar_and_can_be_cancelled_with_nothing_left(page, site, make_file, temporary):
    huge, small = make_file("huge.bin", 200 * MIB), make_file("small.bin", 300_000)
    with slow_proxy.in_front_of(site.url) as proxy:
        proxy.rate = 8 * MIB
        page.goto(f"{proxy.url}/big")
        page.evaluate(
            """() => {
                window.said = []
                const watch = (changes) => changes.forEach(({target}) => {
                    const region = (target.parentElement ?? target).closest("[aria-live]")
                    if (region?.getAttribute("aria-live") === "polite") said.push(region.textContent)
                })
                new MutationObserver(watch).observe(document.body, {childList: true, subtree: true})
            }"""
        )
        send(page, "Huge", huge)
        text = page.locator(".store-upload-text")

        expect(text).to_have_text(re.compile(r"[\d.]+ MiB of 200\.0 MiB, \d+ seconds left"))
        first = position(page)
        wait_until(lambda: position(page) > first + 0.05)
        second = position(page)
        wait_until(lambda: position(page) > second + 0.05)
        wait_until(lambda: unnamed_files(site.root))
        assert 0 < first < position(page) < 0.9
        assert page.locator("form").get_attribute("aria-busy") == "true"

        page.get_by_role("button", name="Cancel the upload").click()

        expect(text).to_have_text("The upload was cancelled.")
        expect(page.get_by_role("button", name="Cancel the upload")).to_have_count(0)
        assert page.evaluate("document.activeElement.textContent") == "Send"
        assert page.locator("form").get_attribute("aria-busy") is None
        wait_until(lambda: site.active == 0)
        assert site.stored() == []
        assert not (site.root / ".staged").exists()
        assert list(temporary.iterdir()) == []
        assert page.evaluate("said.length") <= 8

        proxy.rate = None
        send(page, "Small", small)

        expect(page.locator(".flash")).to_have_text("Small: small.bin")
        assert site.stored() == ["small.bin"]
        assert site.posts() == ["/big", "/big"]


@pytest.mark.browser
def test_a_form_is_not_sent_twice_while_it_is_on_its_way(page, site, make_file):
    with slow_proxy.in_front_of(site.url) as proxy:
        page.goto(f"{proxy.url}/big")
        page.get_by_label("Photo").set_input_files(make_file("big.bin", 20 * MIB))
        proxy.hold()
        page.get_by_role("button", name="Send", exact=True).dblclick()
        page.get_by_label("Title").press("Enter")
        page.get_by_role("button", name="Send elsewhere").click()
        expect(page.locator(".store-upload")).to_have_count(1)
        proxy.release()

        expect(page.locator(".flash")).to_have_text(": big.bin")
        assert site.posts() == ["/big"]
        assert site.stored() == ["big.bin"]


@pytest.mark.browser
def test_a_redirect_to_the_same_page_with_a_fragment_loads_it_anew(page, site, make_file):
    page.goto(f"{site.url}/big")
    send(page, "One", make_file("one.bin", 10))
    expect(page.locator(".flash")).to_have_text("One: one.bin")
    assert page.url == f"{site.url}/big#end"

    send(page, "Two", make_file("two.bin", 10))

    expect(page.locator(".flash")).to_have_text("Two: two.bin")
    assert page.url == f"{site.url}/big#end"
    assert site.posts() == ["/big", "/big"]


@pytest.mark.browser
def test_a_page_that_was_an_answer_itself_is_not_sent_again_by_a_redirect_to_it(page, site, make_file):
    page.goto(f"{site.url}/big")
    page.locator("form").evaluate("form => { form.noValidate = true }")
    page.get_by_label("Title").fill("Nothing")
    page.get_by_role("button", name="Send", exact=True).click()
    wait_until(lambda: site.posts() == ["/big"])
    expect(page.get_by_label("Title")).to_have_value("Nothing")

    send(page, "One", make_file("one.bin", 10))

    expect(page.locator(".flash")).to_have_text("One: one.bin")
    assert site.posts() == ["/big", "/big"]


@pytest.mark.browser
def test_a_redirect_to_another_origin_is_followed(page, site, make_site, photo):
    other = make_site("other")
    page.goto(f"{site.url}/?next={other.url}/done")
    send(page, "Lift-off", photo)

    page.wait_for_url(f"{other.url}/done")
    assert site.posts() == ["/"]


@pytest.mark.browser
def test_no_script_in_a_location_is_run(page, site, photo, complaints):
    page.goto(f"{site.url}/?next=javascript:document.title='run'")
    send(page, "Lift-off", photo)

    expect(page.locator(".store-upload-text")).to_have_text("The upload was interrupted. Please try again.")
    assert page.title() == "Add a photo"
    # The browser has tried to follow it as a request follows a redirect, and says that it may not.
    assert "Connecting to 'javascript:" in complaints[-1] or "Failed to load resource" in complaints[-1]
    complaints.clear()


@pytest.mark.browser
def test_a_location_with_a_script_is_not_run_even_if_it_is_told(page, site, photo):
    told = {"X-Store-Location": "java\tscript:document.title='run'"}
    page.goto(site.url)
    page.route(lambda url: True, lambda route: route.fulfill(status=204, headers=told))
    send(page, "Lift-off", photo)

    expect(page.locator(".store-upload-text")).to_have_text("The upload was interrupted. Please try again.")
    assert page.title() == "Add a photo"


@pytest.mark.browser
def test_a_lost_connection_leaves_the_form_as_it_was(page, site, make_file):
    with slow_proxy.in_front_of(site.url) as proxy:
        page.goto(f"{proxy.url}/big")
        proxy.rate = 8 * MIB
        send(page, "Big", make_file("big.bin", 50 * MIB))
        wait_until(lambda: position(page) > 0)
        proxy.go_down()

        expect(page.locator(".store-upload-text")).to_have_text("The upload was interrupted. Please try again.")
        expect(page.get_by_label("Title")).to_have_value("Big")
        assert page.evaluate("document.querySelector('#photo').files[0].name") == "big.bin"
        wait_until(lambda: site.active == 0)
        assert site.stored() == []

        proxy.rate = None
        proxy.come_back()
        page.get_by_role("button", name="Send", exact=True).click()

        expect(page.locator(".flash")).to_have_text("Big: big.bin")


@pytest.mark.browser
def test_an_answer_without_content_leaves_the_page_as_it_was(page, site, photo):
    page.goto(f"{site.url}/posting-to/nothing")
    send(page, "Lift-off", photo)

    expect(page.locator(".store-upload")).to_have_count(0)
    expect(page.get_by_label("Title")).to_have_value("Lift-off")
    assert page.url == f"{site.url}/posting-to/nothing"
    assert site.posts() == ["/nothing"]


@pytest.mark.browser
def test_after_a_redirect_to_a_download_the_form_can_be_sent_again(page, site, photo):
    page.clock.install()
    page.goto(f"{site.url}/?next=/download")
    with page.expect_download():
        send(page, "One", photo)
    assert page.locator("form").get_attribute("aria-busy") == "true"

    page.clock.fast_forward(10_000)

    expect(page.locator(".store-upload")).to_have_count(0)
    with page.expect_download():
        send(page, "Two", photo)
    assert len(site.stored()) == 2


@pytest.mark.browser
def test_a_page_that_comes_back_as_it_was_left_can_be_sent_again(page, site, photo):
    page.clock.install()
    page.goto(f"{site.url}/?next=/download")
    with page.expect_download():
        send(page, "One", photo)
    page.clock.fast_forward(6_000)

    # A headless browser keeps no pages.
    page.evaluate("window.dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")

    expect(page.locator(".store-upload")).to_have_count(0)
    with page.expect_download():
        send(page, "Two", photo)
    page.clock.fast_forward(5_000)
    assert page.locator("form").get_attribute("aria-busy") == "true"


@pytest.mark.browser
def test_scripts_of_an_answer_do_not_run_and_its_first_wrong_field_has_the_focus(page, site, photo):
    page.goto(f"{site.url}/posting-to/scripts")
    send(page, "Lift-off", photo)

    expect(page.locator("#wrong")).to_be_focused()
    assert page.title() == "Scripts"
    assert page.locator("script:not([type]), noscript").count() == 1  # the one in the head
    assert page.evaluate("JSON.parse(document.getElementById('data').textContent)") == [1]


@pytest.mark.browser
@pytest.mark.parametrize("name, size, sentence", [("a.exe", 10, NOT_ALLOWED), ("a.jpg", MIB + 1, TOO_LARGE)])
def test_what_the_server_would_refuse_is_refused_with_its_sentence(open_window, site, make_file, name, size, sentence):
    file = make_file(name, size)
    plain, page = open_window(java_script_enabled=False), open_window()
    plain.goto(site.url)
    send(plain, "A file", file)
    expect(plain.locator(".error")).to_have_text(sentence)
    posts = site.posts()

    page.goto(site.url)
    send(page, "A file", file)

    expect(alert(page)).to_have_text(sentence)
    described = page.get_by_label("Photo").get_attribute("aria-describedby")
    assert described == alert(page).get_attribute("id")
    assert page.get_by_label("Photo").get_attribute("aria-invalid") == "true"
    assert page.locator("input:invalid").get_attribute("id") == "photo"
    assert site.posts() == posts


@pytest.mark.browser
def test_a_better_choice_takes_the_refusal_back(page, site, make_file, photo):
    page.goto(site.url)
    send(page, "A file", make_file("a.png", 2))
    expect(alert(page)).to_have_text(TOO_SMALL)

    page.get_by_label("Photo").set_input_files(photo)

    expect(alert(page)).to_have_count(0)
    assert page.get_by_label("Photo").get_attribute("aria-describedby") is None
    assert page.get_by_label("Photo").get_attribute("aria-invalid") is None
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".flash")).to_have_count(1)


@pytest.mark.browser
@pytest.mark.parametrize(
    "sizes, sentence",
    [
        ({"b.txt": 1, "a.CSV": 1, "c.html": 1}, "b.txt, c.html: Only these types of files are allowed:"),
        ({"c.csv": 1, "d.csv": 10, "e.csv": 11}, "d.csv, e.csv: The file is too large: at most 9 Bytes are allowed."),
        ({"f.csv": 7, "g.csv": 7}, "The files are too large together: at most 12 Bytes in total are allowed."),
        ({"h.csv": 1, "i.csv": 1, "j.csv": 1}, "At most 4 files are allowed here."),
    ],
)
def test_of_several_files_the_refused_ones_are_named_as_by_the_server(open_window, site, tmp_path, sizes, sentence):
    files = [tmp_path / name for name in sizes]
    for file in files:
        file.write_bytes(b"1" * sizes[file.name])
    plain, page = open_window(java_script_enabled=False), open_window()
    plain.goto(f"{site.url}/several")
    plain.get_by_label("Photos", exact=True).set_input_files(files)
    plain.get_by_role("button", name="Send").click()
    expect(plain.locator(".error").first).to_contain_text(sentence)

    page.goto(f"{site.url}/several")
    page.get_by_label("Photos", exact=True).set_input_files(files)

    expect(alert(page)).to_have_text(" ".join(plain.locator(".error").all_text_contents()))
    page.get_by_role("button", name="Reset").click()
    expect(alert(page)).to_have_count(0)
    assert page.locator("input:invalid").count() == 0


@pytest.mark.browser
def test_what_the_page_itself_says_of_an_input_stays(page, site, make_file, photo):
    page.goto(site.url)
    page.locator("h1").evaluate("heading => { heading.id = 'hint' }")
    field = page.get_by_label("Photo")
    field.evaluate("input => { input.setAttribute('aria-describedby', 'hint'); input.ariaInvalid = 'true' }")
    page.get_by_label("Title").fill("Changed")
    page.get_by_label("Title").blur()
    assert field.get_attribute("aria-invalid") == "true"

    field.set_input_files(make_file("a.exe", 10))
    assert field.get_attribute("aria-describedby") == f"hint {alert(page).get_attribute('id')}"
    field.set_input_files(photo)

    expect(alert(page)).to_have_count(0)
    assert field.get_attribute("aria-describedby") == "hint"


@pytest.mark.browser
def test_a_type_that_the_browser_does_not_know_is_left_to_the_server(page, site, make_file):
    page.goto(f"{site.url}/several")
    page.get_by_label("Photos", exact=True).set_input_files(make_file("data.qqq", 1))

    expect(alert(page)).to_have_count(0)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".error")).to_contain_text("data.qqq: Only these types of files are allowed:")


@pytest.mark.browser
def test_files_that_the_field_has_and_keeps_count(page, site, make_file):
    files = [make_file(f"{number}.png", 1) for number in range(3)]
    page.goto(f"{site.url}/several")
    photos = page.get_by_label("Photos", exact=True)

    photos.set_input_files(files[:2])
    expect(alert(page)).to_have_count(0)
    photos.set_input_files(files)
    expect(alert(page)).to_have_text("At most 4 files are allowed here.")
    page.get_by_label("Remove a.jpg").check()
    expect(alert(page)).to_have_text("At most 4 files are allowed here.")
    page.get_by_label("Remove b.jpg").check()
    expect(alert(page)).to_have_count(0)


@pytest.mark.browser
def test_images_are_shown_before_they_are_sent(page, site, tmp_path, photo):
    fake = tmp_path / "fake.png"
    fake.write_bytes(b"no image")
    page.goto(f"{site.url}/several")
    photos, previews = page.get_by_label("Photos", exact=True), page.locator(".store-file-preview canvas")

    photos.set_input_files([fake, photo])

    expect(page.get_by_role("img", name="Preview of rocket.jpg")).to_be_visible()
    expect(previews).to_have_count(1)
    # The photograph has 640 by 427 pixels.
    assert previews.evaluate("canvas => [canvas.width, canvas.height]") == [160, 107]
    colours = "canvas => new Set(canvas.getContext('2d').getImageData(0, 0, 160, 107).data).size"
    assert previews.evaluate(colours) > 50
    photos.set_input_files([fake])
    expect(previews).to_have_count(0)


@pytest.mark.browser
def test_there_are_so_many_previews_at_most(page, site, tmp_path, photo):
    page.goto(f"{site.url}/several")
    copies = []
    for number in range(14):
        copies.append(tmp_path / f"{number}.jpg")
        os.link(photo, copies[-1])

    page.get_by_label("Photos", exact=True).set_input_files(copies)

    expect(page.get_by_role("img", name="Preview of 11.jpg")).to_be_visible()
    expect(page.locator("canvas")).to_have_count(12)


@pytest.mark.browser
def test_the_keyboard_alone_sends_and_cancels(page, site, make_file):
    with slow_proxy.in_front_of(site.url) as proxy:
        page.goto(f"{proxy.url}/big")
        page.get_by_label("Photo").set_input_files(make_file("big.bin", 50 * MIB))
        proxy.hold()
        page.get_by_label("Title").focus()
        page.keyboard.type("Big")
        for _ in range(2):
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.value") == "send"
        page.keyboard.press("Enter")
        expect(page.locator("progress")).to_be_visible()
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Cancel the upload")).to_be_focused()
        page.keyboard.press("Space")

        expect(page.locator(".store-upload-text")).to_have_text("The upload was cancelled.")
        expect(page.get_by_role("button", name="Send", exact=True)).to_be_focused()
        proxy.release()
        wait_until(lambda: site.posts() == ["/big"])
        wait_until(lambda: site.active == 0)
        assert site.stored() == []


@pytest.mark.browser
def test_an_application_that_is_mounted_gets_its_uploads(page, make_app, photo):
    app = make_app("mounted", TESTING=False)
    add_views(app)
    outer = make_app("outer", TESTING=False)
    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/mount": app})
    site = Site(outer)
    try:
        page.goto(f"{site.url}/mount/")
        send(page, "Lift-off", photo)

        expect(page.locator(".flash")).to_have_text("rocket.jpg is stored.")
        assert page.url == f"{site.url}/mount/done"
        assert site.posts() == ["/mount/"]
    finally:
        site.close()
