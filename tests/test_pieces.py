"""Every byte of a multipart body arrives, wherever the pieces of the body end."""

from __future__ import annotations

import io
import re
from random import Random

import multipart
import pytest
from flask import Flask, Request, request
from werkzeug.formparser import FormDataParser, MultiPartParser

from flask_store import Store, pieces
from flask_store.pieces import MAX_PADDING, Pieces

# Bytes that Werkzeug asks for at a time.
PIECE_SIZE = 64 * 1024

BOUNDARY = b"----WebKitFormBoundaryABCDEFGHIJKLMNOP"

BOUNDARIES = [b"b", BOUNDARY, b"-" * 40, b"--b--", b"x" * 70]


def part(name, data, filename=None, line_break=b"\r\n"):
    disposition = b'Content-Disposition: form-data; name="%s"' % name
    if filename is not None:
        disposition += b'; filename="%s"' % filename
    return disposition + line_break * 2 + data + line_break


def body_of(parts, boundary=BOUNDARY, padding=b"", line_break=b"\r\n"):
    line = b"--" + boundary + padding + line_break
    return line + line.join(parts) + b"--" + boundary + b"--" + padding + line_break


def parsed(body, boundary, size):
    """Return the fields and files that Werkzeug reads from pieces of a size."""
    parser = MultiPartParser(stream_factory=lambda **_: io.BytesIO(), buffer_size=size)
    form, files = parser.parse(Pieces(io.BytesIO(body), boundary), boundary, len(body))
    return list(form.items(multi=True)), [(name, file.filename, file.read()) for name, file in files.items(multi=True)]


@pytest.fixture(params=[7, 100, pieces.READ_AHEAD_SIZE], ids="{} bytes ahead".format)
def read_ahead(request, monkeypatch):
    monkeypatch.setattr(pieces, "READ_AHEAD_SIZE", request.param)


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=["short", "browser", "dashes", "ends in dashes", "long"])
@pytest.mark.parametrize("padding", [b"", b" ", b" \t ", b" " * 30, b"\t" * MAX_PADDING], ids=len)
@pytest.mark.parametrize("line_break", [b"\r\n", b"\n"], ids=["CRLF", "LF"])
def test_a_piece_may_end_anywhere_in_files_and_fields(read_ahead, boundary, padding, line_break):
    for data in (b"", b"x", b"\n\n", b"q\r\n\rq", b"\r\n--" + boundary[:-1] + b"?", bytes(range(256))):
        parts = [
            part(b"first", data, b"a.bin", line_break),
            part(b"text", b"some text", None, line_break),
            part(b"second", data + b"z", b"b.bin", line_break),
        ]
        body = body_of(parts, boundary, padding, line_break)
        expected = [("text", "some text")], [("first", "a.bin", data), ("second", "b.bin", data + b"z")]

        for size in (1, 2, 3, 7, 16, 33, 100, 257, 5000):
            assert parsed(body, boundary, size) == expected, (data, size)


@pytest.mark.parametrize("padding", [b"", b"  ", b" " * 200], ids=len)
@pytest.mark.parametrize("follows", ["nothing", "a field", "a file"])
def test_a_delimiter_may_stand_at_every_place_around_the_end_of_a_piece(padding, follows):
    after = {"nothing": [], "a field": [part(b"t", b"text")], "a file": [part(b"g", b"data", b"g.bin")]}[follows]
    start = len(body_of([part(b"f", b"", b"a.bin")], padding=padding)) - len(BOUNDARY) - len(padding) - 8
    for size in range(PIECE_SIZE - start - 320, PIECE_SIZE - start + 8):
        body = body_of([part(b"f", b"x" * size, b"a.bin"), *after], padding=padding)

        fields, files = parsed(body, BOUNDARY, PIECE_SIZE)

        assert len(files[0][2]) == size
        assert fields == ([("t", "text")] if follows == "a field" else [])
        assert files[1:] == ([("g", "g.bin", b"data")] if follows == "a file" else [])


def test_a_line_that_only_begins_like_a_delimiter_is_part_of_the_file(read_ahead):
    for rest in (b"x", b"-", b"-x", b" x", b" \rx", b" " * 100 + b"x", b"\tx\r\n--"):
        data = b"before\r\n--" + BOUNDARY + rest + b"\r\nafter"
        body = body_of([part(b"f", data, b"a.bin")])
        if rest == b" \rx":
            continue  # a lone carriage return ends a line for Werkzeug

        for size in range(1, 200, 3):
            assert parsed(body, BOUNDARY, size)[1] == [("f", "a.bin", data)], (rest, size)


def test_more_padding_than_is_held_is_read_whole_or_refused():
    body = body_of([part(b"f", b"data", b"a.bin"), part(b"t", b"text")], padding=b" " * (MAX_PADDING + 1))

    assert parsed(body, BOUNDARY, len(body)) == ([("t", "text")], [("f", "a.bin", b"data")])
    outcomes = set()
    for size in range(1, len(body), 7):
        try:
            outcomes.add(str(parsed(body, BOUNDARY, size)))
        except ValueError as error:
            outcomes.add(str(error))
    assert outcomes == {
        str(([("t", "text")], [("f", "a.bin", b"data")])),
        f"a delimiter has more than {MAX_PADDING} bytes of padding",
    }


def test_another_parser_reads_the_same(read_ahead):
    contents = [b"\r\n" * 50, b"--" * 60, b"\r\n--" + BOUNDARY[:20], b"\n\r\n-", b"\0\xff" * 90]
    body = body_of([part(b"f", content, b"a.bin") for content in contents])
    other = [found.raw for found in multipart.MultipartParser(io.BytesIO(body), BOUNDARY.decode()).parts()]

    assert other == contents
    for size in range(1, 130):
        assert [data for _, _, data in parsed(body, BOUNDARY, size)[1]] == contents


def view():
    return {
        "files": [len(file.read()) for file in request.files.values()],
        "text": [len(text) for text in request.form.values()],
    }


def client_of(app):
    app.post("/")(view)
    return app.test_client()


# The final delimiter is cut after its first dash, at the fifth piece.
GAINS_A_BYTE = 5 * PIECE_SIZE - len(part(b"f", b"", b"a.bin")) - 2 * len(BOUNDARY) - 7


def send(client, size, filename, **options):
    body = body_of([part(b"f", b"x" * size, filename)])
    content_type = f"multipart/form-data; boundary={BOUNDARY.decode()}"
    return client.post("/", data=body, content_type=content_type, **options).json


@pytest.mark.parametrize("settings", [{}, {"STORE_RECEIVE": False}], ids=["receiving", "not receiving"])
@pytest.mark.parametrize("before_the_end", range(-3, 4))
def test_an_upload_of_any_size_arrives_as_it_was_sent(make_app, settings, before_the_end):
    size = GAINS_A_BYTE + before_the_end

    answer = send(client_of(make_app(**settings)), size, b"a.bin")

    assert answer == {"files": [size], "text": []}


@pytest.mark.parametrize("size", range(GAINS_A_BYTE % PIECE_SIZE - 3, GAINS_A_BYTE % PIECE_SIZE + 4))
def test_a_small_upload_and_a_text_arrive_as_they_were_sent(make_app, size):
    client = client_of(make_app(MAX_FORM_MEMORY_SIZE=None))

    assert send(client, size, b"a.bin") == {"files": [size], "text": []}
    body = body_of([part(b"f", b"x" * size)])
    content_type = f"multipart/form-data; boundary={BOUNDARY.decode()}"
    assert client.post("/", data=body, content_type=content_type).json == {"files": [], "text": [size]}


def test_a_body_of_no_declared_length_arrives_as_it_was_sent(make_app):
    client = client_of(make_app())
    body = body_of([part(b"f", b"x" * GAINS_A_BYTE, b"a.bin")])

    answer = client.post(
        "/",
        input_stream=io.BytesIO(body),
        content_type=f"multipart/form-data; boundary={BOUNDARY.decode()}",
        environ_overrides={"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
    )

    assert answer.json == {"files": [GAINS_A_BYTE], "text": []}


def test_every_application_with_a_store_gets_the_parser():
    app = Flask(__name__)
    app.config.update(
        STORE_PROVIDER="flask_store.stores.s3.S3Store",
        STORE_S3_ACCESS_KEY="key",
        STORE_S3_SECRET_KEY="secret",
        STORE_S3_BUCKET="bucket",
        STORE_S3_REGION="eu-central-1",
    )
    Store(app)

    assert send(client_of(app), GAINS_A_BYTE, b"a.bin") == {"files": [GAINS_A_BYTE], "text": []}


class ReadsWhole(FormDataParser):
    """A developer's parser that hands another stream on."""

    def parse(self, stream, mimetype, content_length, options=None):
        return super().parse(io.BytesIO(stream.read()), mimetype, content_length, options)


@pytest.mark.parametrize("is_of_another_application", [False, True])
def test_a_parser_of_the_developer_is_followed_by_the_one_that_reads_right(make_app, is_of_another_application):
    base = make_app("first").request_class if is_of_another_application else Request
    app = Flask(__name__)
    app.request_class = type("Own", (base,), {"form_data_parser_class": ReadsWhole})
    Store(app)

    assert send(client_of(app), GAINS_A_BYTE, b"a.bin") == {"files": [GAINS_A_BYTE], "text": []}


@pytest.mark.parametrize("seed", range(20))
def test_pieces_change_nothing_of_what_werkzeug_reads_of_a_whole_body_however_malformed(seed):
    random = Random(seed)
    words = [b"\r\n", b"\n", b"\r", b"--b", b"--b--", b"-", b" ", b"x", b"\r\n--b\r\n", b"\r\n--b  \r\n"]
    words += [part(b"f", b"", b"a"), part(b"t", b"")]
    for _ in range(100):
        body = b"".join([b"--b\r\n", part(b"f", b"", b"a"), *random.choices(words, k=12), b"\r\n--b--"])

        whole = outcome(io.BytesIO(body), len(body))
        in_pieces = outcome(Pieces(io.BytesIO(body), b"b"), random.choice([1, 2, 5, 9, 30]))

        assert in_pieces == whole, body


def outcome(stream, size):
    try:
        parser = MultiPartParser(stream_factory=lambda **_: io.BytesIO(), buffer_size=size)
        form, files = parser.parse(stream, b"b", None)
    except ValueError:
        return None
    return list(form.items(multi=True)), [(file.filename, file.read()) for file in files.values()]


def test_a_stream_is_asked_for_no_more_than_a_small_body_has(make_app):
    asked = []

    class Body(io.BytesIO):
        def read(self, size=-1):
            asked.append(size)
            return super().read(size)

    body = body_of([part(b"f", b"small", b"a.bin")])
    parser = make_app().request_class.form_data_parser_class(stream_factory=lambda *_, **__: io.BytesIO())
    parser.parse(Body(body), "multipart/form-data", len(body), {"boundary": BOUNDARY.decode()})

    assert max(asked) == len(body)


def test_no_expression_is_compiled_for_a_boundary(monkeypatch):
    compiled = []
    compile_expression = re.compile
    monkeypatch.setattr("re.compile", lambda *args: compiled.append(args) or compile_expression(*args))

    Pieces(io.BytesIO(b"x"), b"one of its own").read(100)

    assert compiled == []


def test_a_request_class_set_later_is_told_by_check(make_app):
    app = make_app()
    assert "Parser: Flask-Store's" in app.test_cli_runner().invoke(args=["store", "check"]).output

    app.request_class = type("Own", (Request,), {})

    assert "Parser: another one, because app.request_class was set after init_app" in (
        app.test_cli_runner().invoke(args=["store", "check"]).output
    )
