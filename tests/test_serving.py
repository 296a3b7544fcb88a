"""The serving route: a stored file comes back byte for byte, and nothing in it can harm the site or its visitors."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import pytest
from werkzeug.exceptions import NotFound
from werkzeug.http import parse_options_header
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from flask_store import Provider, StoreFile

NAUGHTY_STRINGS = json.loads((Path(__file__).parent / "data" / "naughty_strings.json").read_text())["strings"]

INLINE = [
    ("a.png", "image/png"),
    ("a.jpg", "image/jpeg"),
    ("a.jpeg", "image/jpeg"),
    ("a.JPG", "image/jpeg"),
    ("a.gif", "image/gif"),
    ("a.webp", "image/webp"),
    ("a.avif", "image/avif"),
    ("a.mp4", "video/mp4"),
    ("a.webm", "video/webm"),
    ("a.mp3", "audio/mpeg"),
    ("a.ogg", "audio/ogg"),
    ("a.wav", "audio/wav"),
    ("a.txt", "text/plain; charset=utf-8"),
    ("a.pdf", "application/pdf"),
    ("a.html.txt", "text/plain; charset=utf-8"),
]

ATTACHED = [
    "a.html",
    "a.HTML",
    "a.htm",
    "a.xhtml",
    "a.svg",
    "a.Svg",
    "a.svgz",
    "a.xml",
    "a.xsl",
    "a.js",
    "a.mjs",
    "a.css",
    "a.json",
    "a.swf",
    "a.mht",
    "a.eml",
    "a.php",
    "a.exe",
    "a.html.gz",
    "a.txt.gz",
    "a.tar.gz",
    "a.png.html",
    "a.pngx",
    "a.unheard-of",
    "LICENSE",
    "png",
]


@pytest.fixture
def app(make_app):
    return make_app()


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def put(app, upload):
    """Return a function that stores a file and returns its URL."""

    def put_file(filename, content=b"0123456789", destination=None):
        with app.app_context():
            return Provider(destination=destination).save(upload(content, filename)).absolute_url()

    return put_file


def assert_harmless(response):
    """Assert that a browser takes the type as told, and runs nothing whatever it shows."""
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    policy = response.headers["Content-Security-Policy"]
    directives = dict(directive.strip().partition(" ")[::2] for directive in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert "script-src" not in directives
    assert "sandbox" in directives or response.mimetype == "application/pdf"
    assert "allow-scripts" not in policy
    assert "Content-Encoding" not in response.headers


@pytest.mark.parametrize(("filename", "content_type"), INLINE)
def test_what_cannot_carry_a_script_is_shown_in_place(client, put, filename, content_type):
    response = client.get(put(filename), buffered=True)

    assert response.status_code == 200
    assert response.data == b"0123456789"
    assert response.headers["Content-Type"] == content_type
    assert parse_options_header(response.headers["Content-Disposition"]) == ("inline", {"filename": filename})
    assert_harmless(response)


@pytest.mark.parametrize("filename", ATTACHED)
def test_everything_else_is_downloaded_as_bytes(client, put, filename):
    url = put(filename)
    response = client.get(url, buffered=True)

    assert response.status_code == 200
    assert response.data == b"0123456789"
    assert response.headers["Content-Type"] == "application/octet-stream"
    disposition = parse_options_header(response.headers["Content-Disposition"])
    assert disposition == ("attachment", {"filename": unquote(url.rpartition("/")[2])})
    assert_harmless(response)


@pytest.mark.parametrize("filename", ["写真.html", "a;b='c' %41,d.html", "naïve file.html", "😀.html"])
def test_any_name_goes_without_its_directory_into_a_well_formed_ascii_header(client, put, filename):
    response = client.get(put(filename, destination="photos/2026"), buffered=True)

    header = response.headers["Content-Disposition"]
    assert header.isascii()
    assert parse_options_header(header) == ("attachment", {"filename": filename})


def test_every_naughty_string_is_a_file_at_the_url_that_its_store_file_tells(client, put):
    urls = {put(text, content=str(number).encode()): number for number, text in enumerate(NAUGHTY_STRINGS) if text}

    contents = {url: client.get(url, buffered=True).data for url in urls}

    assert contents == {url: str(number).encode() for url, number in urls.items()}
    assert len(contents) > 400


def test_head_tells_what_get_would(client, put):
    url = put("a.html")

    head, get = client.head(url, buffered=True), client.get(url, buffered=True)

    assert head.status_code == 200
    assert head.data == b""
    assert head.content_length == 10
    assert {**head.headers, "Date": None} == {**get.headers, "Date": None}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_the_route_only_reads(client, put, method):
    url = put("a.txt")

    assert client.open(url, method=method).status_code == 405
    assert client.get(url, buffered=True).data == b"0123456789"


@pytest.mark.parametrize(
    ("asked", "content", "told"),
    [
        ("bytes=2-5", b"2345", "bytes 2-5/10"),
        ("bytes=0-0", b"0", "bytes 0-0/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=7-100", b"789", "bytes 7-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
    ],
)
@pytest.mark.parametrize("filename", ["a.mp4", "a.html"])
def test_a_range_is_answered_with_that_part(client, put, filename, asked, content, told):
    response = client.get(put(filename), headers={"Range": asked}, buffered=True)

    assert response.status_code == 206
    assert response.data == content
    assert response.content_length == len(content)
    assert response.headers["Content-Range"] == told
    assert_harmless(response)


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=100-200"])
def test_a_range_behind_the_end_cannot_be_satisfied(client, put, asked):
    response = client.get(put("a.mp4"), headers={"Range": asked}, buffered=True)

    assert response.status_code == 416
    assert response.headers["Content-Range"] == "bytes */10"
    assert_harmless(response)


def test_a_range_of_a_file_that_has_changed_is_the_whole_file(client, put):
    headers = {"Range": "bytes=2-5", "If-Range": '"another"'}

    response = client.get(put("a.mp4"), headers=headers, buffered=True)

    assert response.status_code == 200
    assert response.data == b"0123456789"


@pytest.mark.parametrize(("condition", "header"), [("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified")])
@pytest.mark.parametrize("filename", ["a.txt", "a.html"])
def test_what_a_browser_has_already_is_not_sent_again(client, put, filename, condition, header):
    url = put(filename)
    known = client.get(url, buffered=True).headers[header]

    response = client.get(url, headers={condition: known}, buffered=True)

    assert response.status_code == 304
    assert response.data == b""
    assert_harmless(response)


@pytest.mark.parametrize(
    "condition", [{"If-None-Match": '"another"'}, {"If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"}]
)
def test_what_a_browser_has_of_an_older_file_is_sent_again(client, put, condition):
    response = client.get(put("a.txt"), headers=condition, buffered=True)

    assert response.status_code == 200
    assert response.data == b"0123456789"


def test_another_file_under_a_freed_name_has_another_etag(app, client, put):
    url = put("a.txt", b"first")
    first = client.get(url, buffered=True).headers["ETag"]
    with app.app_context():
        StoreFile("a.txt").delete()
    put("a.txt", b"the second")

    response = client.get(url, headers={"If-None-Match": first}, buffered=True)

    assert response.status_code == 200
    assert response.data == b"the second"


@pytest.fixture
def hostile(put, root, tmp_path):
    """A store with everything in it and beside it that must never be served."""
    put("a.txt", destination="photos")
    canary = root.parent / "canary.txt"
    canary.write_bytes(b"canary")
    (root / ".env").write_bytes(b"canary")
    (root / ".kept").mkdir()
    (root / ".kept" / "a.txt").write_bytes(b"canary")
    (root / ".staged").mkdir()
    (root / ".staged" / "0123456789").write_bytes(b"canary")
    os.mkfifo(root / "fifo.txt")
    (root / "file-out.txt").symlink_to(canary)
    (root / "directory-out").symlink_to(root.parent)
    (root / "to-nowhere.txt").symlink_to(root / "nowhere.txt")
    (root / "to-itself.txt").symlink_to("to-itself.txt")
    (root / "to-hidden.txt").symlink_to(".env")
    return canary


@pytest.mark.parametrize(
    "path",
    [
        "",
        "missing.txt",
        "photos",
        "photos/",
        "photos/.",
        "photos/missing.txt",
        "photos/a.txt/",
        "photos/a.txt/b.txt",
        ".env",
        ".kept/a.txt",
        ".staged/0123456789",
        "fifo.txt",
        "file-out.txt",
        "directory-out/canary.txt",
        "to-nowhere.txt",
        "to-itself.txt",
        "to-hidden.txt",
        "../canary.txt",
        "photos/../../canary.txt",
        "./photos/a.txt",
        "photos/../photos/a.txt",
        "....//canary.txt",
        "..;/canary.txt",
        "%2e%2e/canary.txt",
        "..%2fcanary.txt",
        "%2e%2e%2fcanary.txt",
        "%252e%252e%252fcanary.txt",
        "..%5ccanary.txt",
        "photos%5ca.txt",
        "..%c0%afcanary.txt",
        "%c0%ae%c0%ae/canary.txt",
        "%ef%bc%8e%ef%bc%8e/canary.txt",
        "%ef%bc%8e%ef%bc%8e%ef%bc%8fcanary.txt",
        "%2f{canary}",
        "/{canary}",
        "file://{canary}",
        "C:/canary.txt",
        "a%00.txt",
        "photos/a.txt%00",
        "photos/a.txt%00.png",
        "photos/a.txt%20",
        "photos/a.txt.",
        "photos/a.txt::$DATA",
        "a%0d%0aSet-Cookie:b.txt",
        "a%ff.txt",
        "%ed%a0%80.txt",
        "con.txt",
        "x" * 300,
        "a/" * 3000 + "a",
    ],
    ids=lambda path: path[:40] or "nothing",
)
def test_what_is_no_stored_file_is_not_found(app, client, hostile, tmp_path, path):
    url = "/uploads/" + path.format(canary=hostile)

    response = client.get(url, follow_redirects=True, buffered=True)

    assert response.status_code == 404
    assert b"canary" not in response.data
    assert str(tmp_path).encode() not in response.data


def test_a_file_that_comes_and_goes_is_there_or_not_found(client, root):
    root.mkdir(parents=True)
    path, done = root / "a.txt", threading.Event()

    def come_and_go():
        while not done.is_set():
            path.touch()
            path.unlink()

    with ThreadPoolExecutor(1) as pool:
        changes = pool.submit(come_and_go)
        try:
            statuses = {client.get("/uploads/a.txt", buffered=True).status_code for _ in range(1500)}
        finally:
            done.set()
        changes.result()

    assert statuses == {200, 404}


def test_a_link_to_another_file_of_the_store_is_served(client, put, root):
    put("a.txt")
    (root / "b.txt").symlink_to("a.txt")

    assert client.get("/uploads/b.txt", buffered=True).data == b"0123456789"


@pytest.mark.parametrize(
    ("prefix", "url"),
    [
        ("/files", "/files/photos/photo.jpg"),
        ("/a/b/ä/", "/a/b/%C3%A4/photos/photo.jpg"),
    ],
)
def test_the_route_is_where_the_prefix_says_and_nowhere_else(make_app, upload, prefix, url):
    app = make_app(STORE_URL_PREFIX=prefix)
    with app.app_context():
        saved = Provider(destination="photos").save(upload())

        assert saved.absolute_url() == url
    assert app.test_client().get(url, buffered=True).data == b"content"
    assert app.test_client().get("/uploads/photos/photo.jpg").status_code == 404


def test_without_store_serve_there_is_no_route(make_app, upload):
    app = make_app(STORE_SERVE=False)
    with app.app_context():
        url = Provider().save(upload()).absolute_url()

    assert "flask_store.file" not in app.view_functions
    assert app.test_client().get(url).status_code == 404


@pytest.mark.parametrize("mount", ["/mounted", "/mounted/deep er"])
def test_a_url_made_in_a_mounted_application_leads_to_the_file(app, put, mount):
    put("写真.txt", destination="photos")
    app.add_url_rule("/", view_func=lambda: StoreFile("写真.txt", "photos").absolute_url())
    client = Client(DispatcherMiddleware(NotFound(), {mount: app}))

    url = client.get(f"{mount}/").text

    assert client.get(url, buffered=True).data == b"0123456789"


def test_a_url_made_outside_a_request_leads_to_the_mounted_application(make_app, upload):
    app = make_app(APPLICATION_ROOT="/mounted")
    with app.app_context():
        url = Provider().save(upload()).absolute_url()

    client = Client(DispatcherMiddleware(NotFound(), {"/mounted": app}))

    assert client.get(url, buffered=True).data == b"content"


def test_a_file_with_a_domain_of_its_own_is_still_served_under_the_prefix(make_app, upload):
    app = make_app(STORE_DOMAIN="https://files.example.com")
    with app.app_context():
        saved = Provider().save(upload())

        assert saved.absolute_url() == "https://files.example.com/uploads/photo.jpg"
    assert app.test_client().get("/uploads/photo.jpg", buffered=True).data == b"content"
