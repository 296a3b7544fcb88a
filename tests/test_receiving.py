"""An upload lands where it will stay."""

from __future__ import annotations

import errno
import gc
import io
import os
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from flask import Flask, Request, request
from flask_wtf import FlaskForm
from open_files import open_files
from werkzeug.datastructures import FileStorage
from werkzeug.formparser import FormDataParser
from werkzeug.test import EnvironBuilder
from wtforms import StringField

from flask_store import Provider, ServiceError, Store
from flask_store.forms import ContentType, FileRequired, MultipleStoreFileField, StoreFileField
from flask_store.receiving import MAX_FILES, MEMORY_SIZE, ReceivedFile, ReceivingParser, request_class
from flask_store.stores import BaseStore
from flask_store.stores.local import LocalStore
from flask_store.stores.staging import StagedFile

pytestmark = pytest.mark.receiving

LARGE = bytes(range(256)) * (MEMORY_SIZE // 200)


@pytest.fixture
def received(app):
    """Return a function that sends an upload in a request, which stays open for the test, and gives its file."""
    contexts = []

    def receive(content=LARGE, filename="large.bin"):
        context = app.test_request_context(method="POST", data={"file": (io.BytesIO(content), filename)})
        context.push()
        contexts.append(context)
        return request.files["file"]

    yield receive
    for context in reversed(contexts):
        context.request.environ["wsgi.input"].close()
        context.pop()


@pytest.fixture(params=["unnamed", "named"])
def either_way(request, monkeypatch):
    """With unnamed files, and as on systems that have none."""
    if request.param == "named":
        monkeypatch.setattr("os.O_TMPFILE", 0, raising=False)


def inode(path):
    return os.stat(path).st_ino


def content_of(saved):
    with saved.open() as stream:
        return stream.read()


def files_below(directory):
    return sorted(path for path in Path(directory).rglob("*") if path.is_file())


def test_a_large_upload_is_published_without_a_copy(received, either_way):
    file = received()
    before = inode(file.stream.fileno())

    saved = Provider(destination="photos").save(file)

    assert inode(saved.absolute_path()) == before
    assert content_of(saved) == LARGE
    assert os.stat(saved.absolute_path()).st_mode & 0o777 == 0o644


def test_a_small_upload_is_in_memory_until_it_is_saved(received, root):
    file = received(LARGE[:MEMORY_SIZE])

    assert file.stream.staged is None
    assert not root.exists()
    assert content_of(Provider().save(file)) == LARGE[:MEMORY_SIZE]


def test_a_small_request_goes_the_ordinary_way(received):
    file = received(b"small")

    assert not isinstance(file.stream, ReceivedFile)
    assert content_of(Provider().save(file)) == b"small"


@pytest.mark.parametrize("size", [0, 1, MEMORY_SIZE - 1, MEMORY_SIZE, MEMORY_SIZE + 1, 3 * 1024 * 1024])
def test_every_byte_arrives(received, either_way, size):
    content = (LARGE * 8)[:size]

    assert content_of(Provider().save(received(content))) == content


def test_nothing_remains_of_an_upload_that_is_not_saved(make_app, either_way):
    app = make_app()

    @app.post("/")
    def view():
        return str(len(request.files["file"].read()))

    answer = app.test_client().post("/", data={"file": (io.BytesIO(LARGE), "large.bin")})

    assert answer.text == str(len(LARGE))
    assert files_below(app.instance_path) == []
    assert open_files(app.instance_path) == []


def test_a_second_save_is_a_file_of_its_own(received, either_way):
    file = received()
    first, second = Provider().save(file), Provider().save(file)

    Path(first.absolute_path()).write_bytes(b"changed in place")

    assert content_of(second) == LARGE


def test_an_upload_can_be_saved_again_after_a_rollback(app, received, either_way):
    file = received()
    with pytest.raises(KeyError), app.extensions["store"].store.transaction():
        Provider().save(file)
        raise KeyError

    saved = Provider().save(file)

    assert saved.filename == "large.bin"
    assert content_of(saved) == LARGE


def test_nobody_writes_into_the_stored_file_through_the_upload(received, either_way):
    file = received()
    saved = Provider().save(file)

    with pytest.raises(io.UnsupportedOperation):
        file.stream.write(b"changed")

    file.seek(0)
    assert file.read() == LARGE == content_of(saved)
    assert not file.stream.writable()


def test_it_does_not_matter_what_was_done_with_the_upload_before(received, either_way, tmp_path):
    file = received()
    file.save(tmp_path / "copy.bin")
    file.seek(7)
    file.readline()

    saved = Provider().save(file)

    assert content_of(saved) == LARGE == (tmp_path / "copy.bin").read_bytes()


def test_what_was_written_into_an_upload_is_stored(received, either_way):
    file = received()
    file.seek(0)
    file.write(b"rotated")
    file.truncate(len(LARGE) - 1)

    assert content_of(Provider().save(file)) == b"rotated" + LARGE[7:-1]


def test_an_upload_reads_like_any_file(received):
    for content in (b"one\ntwo\nthree", b"one\ntwo\n" + LARGE):
        stream = received(content).stream

        assert (stream.readable(), stream.seekable(), stream.writable(), stream.closed) == (True, True, True, False)
        assert list(stream) == io.BytesIO(content).readlines()
        assert stream.tell() == len(content)
        assert stream.seek(-3, io.SEEK_END) == len(content) - 3
        assert stream.read1(2) + stream.read(None) == content[-3:]
        assert stream.seek(0) == 0
        assert stream.readinto(bytearray(4)) == 4
        assert stream.readline(2) == b"tw"
        text = io.TextIOWrapper(stream, encoding="latin-1")
        assert text.readline() == "o\n"
        text.detach()


def test_a_taken_name_gets_a_random_part(received, either_way, upload):
    Provider().save(upload(b"first", "large.bin"))

    saved = Provider().save(received())

    assert saved.filename != "large.bin"
    assert content_of(saved) == LARGE


def test_modes_are_honoured_whatever_the_size(app, received, either_way):
    app.config.update(STORE_FILE_MODE=0o600, STORE_DIRECTORY_MODE=0o700)

    saved = Provider(destination="photos").save(received())

    assert os.stat(saved.absolute_path()).st_mode & 0o777 == 0o600
    assert os.stat(Path(saved.absolute_path()).parent.parent).st_mode & 0o777 == 0o700


def test_a_destination_in_another_file_system_gets_a_copy(app, received, root, either_way):
    mounted = root / "mounted"
    mounted.mkdir(parents=True)
    mount = shutil.which("mount") and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", mounted])
    if not mount or mount.returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("mounting a file system needs root")
    try:
        file = received()
        saved = Provider(destination="mounted").save(file)

        assert content_of(saved) == LARGE
        assert content_of(Provider().save(file)) == LARGE
        assert files_below(mounted) == [mounted / "large.bin"]
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True)


def test_a_store_that_cannot_be_written_does_not_disturb_other_views(make_app, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    app = make_app(STORE_PATH=str(tmp_path / "file" / "uploads"))

    @app.post("/")
    def view():
        return request.files["file"].read()

    assert app.test_client().post("/", data={"file": (io.BytesIO(LARGE), "a.bin")}).data == LARGE


def test_an_upload_whose_handle_cannot_be_opened_is_not_stored_and_can_be_saved_later(received, root, monkeypatch):
    file = received()

    def refuse(self):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch, pytest.raises(ServiceError):
        patch.setattr(StagedFile, "reopen", refuse)
        Provider().save(file)

    assert files_below(root) == []
    assert content_of(Provider().save(file)) == LARGE


def test_with_fsync_a_received_upload_is_on_the_disk_before_it_has_a_name(app, received, monkeypatch):
    app.config["STORE_FSYNC"] = True
    file = received()
    calls = []
    fsync, link = os.fsync, os.link
    monkeypatch.setattr("os.fsync", lambda fd: (calls.append(("fsync", inode(fd))), fsync(fd)))
    monkeypatch.setattr("os.link", lambda *args, **options: (calls.append(("link", None)), link(*args, **options)))

    saved = Provider().save(file)

    assert calls[:2] == [("fsync", inode(saved.absolute_path())), ("link", None)]


@pytest.mark.parametrize("size", [1000, len(LARGE)])
def test_an_upload_can_be_given_to_another_program(received, size):
    stream = received(LARGE[:size]).stream

    output = subprocess.run(["wc", "-c"], stdin=stream, capture_output=True, text=True, check=True).stdout

    assert int(output) == size


def test_many_files_in_one_request_take_few_descriptors(make_app):
    app = make_app(MAX_FORM_PARTS=200)

    @app.post("/")
    def view():
        saved = [Provider().save(file) for file in request.files.getlist("file")]
        return f"{len(saved)} {len(open_files(app.instance_path))}"

    data = {"file": [(io.BytesIO(LARGE), f"{number}.bin") for number in range(2 * MAX_FILES)]}
    stored, descriptors = map(int, post(app, data).text.split())

    assert stored == 2 * MAX_FILES
    assert descriptors <= MAX_FILES


@pytest.fixture
def small_disk(make_app, tmp_path):
    """An application whose store has a file system of 2 MB to itself."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = shutil.which("mount") and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", mounted])
    if not mount or mount.returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("mounting a file system needs root")
    app = make_app(STORE_PATH=str(mounted), PROPAGATE_EXCEPTIONS=False)
    try:
        yield app
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True)


def test_a_disk_that_fills_while_an_upload_is_received_is_free_again_at_once(small_disk):
    @small_disk.post("/")
    def view():
        return Provider().save(request.files["file"]).filename

    root = small_disk.config["STORE_PATH"]
    free = shutil.disk_usage(root).free
    gc.disable()
    try:
        full = post_file(small_disk, LARGE * 10)
        left = shutil.disk_usage(root).free
    finally:
        gc.enable()

    assert full.status_code == 500
    assert left == free
    assert post_file(small_disk, LARGE).text == "a.bin"


def test_an_upload_that_the_disk_of_the_store_cannot_take_goes_on_elsewhere(small_disk):
    root = small_disk.config["STORE_PATH"]
    free = shutil.disk_usage(root).free
    with small_disk.app_context():
        file = Provider().receive("a.bin", "", None)
        file.write(bytes(free - 8192 - 100))
        file.write(bytes(8192 + 99))
        Path(root, "other").write_bytes(bytes(shutil.disk_usage(root).free))
        file.write(b"elsewhere " * 1000)
        file.seek(0)
        content = file.read()
        file.close()

    Path(root, "other").unlink()
    assert content == bytes(free - 1) + b"elsewhere " * 1000
    assert shutil.disk_usage(root).free == free


@pytest.fixture
def post_to_full_machine(small_disk, monkeypatch):
    """Return a function that posts to an application whose store and temporary files share a disk, nearly full."""
    root = Path(small_disk.config["STORE_PATH"])
    (root / "tmp").mkdir()
    (root / "other").write_bytes(bytes(shutil.disk_usage(root).free - len(LARGE)))

    def post_to(data):
        environ = EnvironBuilder(method="POST", data=data).get_environ()  # which may need a temporary file
        with environ["wsgi.input"], monkeypatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(root / "tmp"))
            return small_disk.test_client().open(environ)

    return post_to


def test_a_view_that_leaves_the_file_alone_does_not_notice_a_full_machine(small_disk, post_to_full_machine, caplog):
    @small_disk.post("/")
    def view():
        return request.form["title"]

    free = shutil.disk_usage(small_disk.config["STORE_PATH"]).free

    answer = post_to_full_machine({"file": (io.BytesIO(LARGE * 4), "a.bin"), "title": "a title"})

    assert (answer.status_code, answer.text) == (200, "a title")
    assert "no place on this machine can take it" in caplog.text
    assert shutil.disk_usage(small_disk.config["STORE_PATH"]).free == free


def test_a_lost_upload_is_an_error_of_its_field_alone(small_disk, post_to_full_machine):
    class Form(FlaskForm):
        title = StringField()
        lost = StoreFileField(validators=[FileRequired(), ContentType(["image/*"])])
        small = StoreFileField(validators=[FileRequired()])

    @small_disk.post("/")
    def view():
        form = Form()
        return {"valid": form.validate_on_submit(), "errors": form.errors, "small": str(form.small.data.filename)}

    data = {"title": "a title", "lost": (io.BytesIO(LARGE * 4), "a.png"), "small": (io.BytesIO(b"text"), "a.txt")}
    answer = post_to_full_machine(data)

    message = "The file could not be stored. Please try again later."
    assert answer.json == {"valid": False, "errors": {"lost": [message]}, "small": "a.txt"}


def test_files_beside_a_lost_one_are_judged_before_they_are_kept(small_disk, post_to_full_machine):
    class Form(FlaskForm):
        photos = MultipleStoreFileField(validators=[ContentType(["image/*"])])

    @small_disk.post("/")
    def view():
        form = Form()
        is_valid = form.validate_on_submit()
        kept = [kept.filename for kept in form.photos.kept]
        return {"valid": is_valid, "errors": len(form.photos.errors), "kept": kept, "again": form.validate()}

    photo, page = b"\x89PNG\r\n\x1a\n" + bytes(100), b"<script>alert(1)</script>"
    lost = io.BytesIO(LARGE * 4)
    uploads = [(lost, "lost.png"), (io.BytesIO(photo), "good.png"), (io.BytesIO(page), "page.png")]

    answer = post_to_full_machine({"photos": uploads})

    assert answer.json == {"valid": False, "errors": 2, "kept": ["good.png"], "again": False}


@pytest.mark.parametrize("before", [0, MAX_FILES])
@pytest.mark.parametrize("receives", [False, True])
def test_an_upload_that_werkzeugs_own_file_cannot_take_is_lost_alone(
    small_disk, post_to_full_machine, receives, before
):
    class Form(FlaskForm):
        title = StringField()
        photo = StoreFileField()

    @small_disk.post("/")
    def view():
        form = Form()
        return {"valid": form.validate_on_submit(), "errors": form.errors, "title": form.title.data}

    small_disk.config["STORE_RECEIVE"] = receives
    data = {"title": "a title", "other": [(io.BytesIO(b"x"), f"{number}.txt") for number in range(before)]}
    answer = post_to_full_machine({**data, "photo": (io.BytesIO(LARGE * 4), "a.bin")})

    message = "The file could not be stored. Please try again later."
    assert answer.json == {"valid": False, "errors": {"photo": [message]}, "title": "a title"}


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), ServiceError("no connection")])
def test_a_store_that_cannot_open_a_stream_costs_the_upload_alone(app, monkeypatch, error):
    class Broken(LocalStore):
        def receive(self, filename, content_type, content_length):
            raise error

    monkeypatch.setattr(app.extensions["store"], "provider", Broken)
    data = {"title": "a title", "file": (io.BytesIO(LARGE), "a.bin")}
    with app.test_request_context(method="POST", data=data):
        assert request.form["title"] == "a title"
        with pytest.raises(OSError, match=r"the bytes of the upload are lost: .*(open files|connection)"):
            request.files["file"].read()


def test_a_lost_upload_is_not_stored_without_a_form_either(small_disk, post_to_full_machine):
    @small_disk.post("/")
    def view():
        with pytest.raises(ServiceError, match="the bytes of the upload are lost"):
            Provider().save(request.files["file"])
        return {"files": [str(file) for file in Provider().list()]}

    assert post_to_full_machine({"file": (io.BytesIO(LARGE * 4), "a.bin")}).json == {"files": ["other"]}


def post_file(app, content, **fields):
    """Send a file, which the test client itself would keep open."""
    return post(app, {"file": (io.BytesIO(content), "a.bin"), **fields})


def post(app, data):
    environ = EnvironBuilder(method="POST", data=data).get_environ()
    with environ["wsgi.input"]:
        return app.test_client().open(environ)


def test_a_request_that_is_refused_in_the_middle_frees_the_disk_at_once(make_app):
    app = make_app(MAX_FORM_PARTS=1)

    @app.post("/")
    def view():
        return str(len(request.files))

    before = os.listdir("/proc/self/fd")
    gc.disable()
    try:
        answer = post_file(app, LARGE, text="one too many")
        after = os.listdir("/proc/self/fd")
    finally:
        gc.enable()

    assert answer.status_code == 413
    assert after == before


def test_a_body_that_breaks_off_frees_the_disk_at_once(make_app):
    app = make_app()

    @app.post("/")
    def view():
        return str(len(request.files))

    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n' + LARGE
    before = os.listdir("/proc/self/fd")
    gc.disable()
    try:
        answer = app.test_client().post("/", data=body, content_type="multipart/form-data; boundary=b")
        after = os.listdir("/proc/self/fd")
    finally:
        gc.enable()

    assert answer.text == "0"
    assert after == before


def test_a_developer_who_says_where_uploads_land_is_obeyed(tmp_path):
    class Special(Request):
        def _get_file_stream(self, *arguments, **options):
            return tempfile.SpooledTemporaryFile(max_size=1)

    app = Flask("app", instance_path=str(tmp_path))
    app.request_class = Special
    Store(app)
    with app.test_request_context(method="POST", data={"file": (io.BytesIO(LARGE), "a.txt")}):
        assert request.files["file"].stream._max_size == 1
        assert content_of(Provider().save(request.files["file"])) == LARGE


def test_an_application_may_have_the_request_class_of_another(make_app, tmp_path):
    first = make_app("first")
    second = Flask("second", instance_path=str(tmp_path))
    second.request_class = type("Special", (first.request_class,), {})
    Store(second)
    with second.test_request_context(method="POST", data={"file": (io.BytesIO(LARGE), "a.bin")}):
        assert isinstance(request.files["file"].stream, ReceivedFile)
        assert content_of(Provider().save(request.files["file"])) == LARGE


def test_a_parser_of_the_developer_reads_the_whole_body_at_once(tmp_path):
    class Whole(FormDataParser):
        def parse(self, stream, mimetype, content_length, options=None):
            start = stream.read(1000)
            return super().parse(io.BytesIO(start + stream.read()), mimetype, content_length, options)

    class Special(Request):
        form_data_parser_class = Whole

    app = Flask("app", instance_path=str(tmp_path))
    app.request_class = Special
    Store(app)
    with app.test_request_context(method="POST", data={"file": (io.BytesIO(LARGE), "a.bin")}):
        assert request.files["file"].read() == LARGE


def test_an_upload_that_cannot_be_brought_to_the_disk_stays_whole(app, root):
    root.mkdir(parents=True)
    file = Provider().receive("a.bin", "", None)
    file.write(bytes(200_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            file.fileno()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert content_of(Provider().save(FileStorage(file, "a.bin"))) == bytes(200_000)
    file.close()


def test_a_request_is_parsed_outside_an_application_context(make_app):
    environ = EnvironBuilder(method="POST", data={"file": (io.BytesIO(b"text"), "a.txt")}).get_environ()

    with make_app().request_class(environ) as outside:
        assert outside.files["file"].read() == b"text"


def test_an_application_whose_store_receives_nothing_gets_the_parser_too(make_app, monkeypatch):
    monkeypatch.setattr(LocalStore, "receive", BaseStore.receive)

    assert issubclass(make_app().request_class.form_data_parser_class, ReceivingParser)


def test_windows_receives_the_ordinary_way(app, monkeypatch):
    store = Provider()
    monkeypatch.setattr("os.name", "nt")

    assert store.receive("a.bin", "application/octet-stream", None) is None


def test_it_can_be_turned_off(make_app):
    app = make_app(STORE_RECEIVE=False)
    with app.test_request_context(method="POST", data={"file": (io.BytesIO(LARGE), "a.bin")}):
        file = request.files["file"]

        assert isinstance(file.stream, tempfile.SpooledTemporaryFile)
        assert content_of(Provider().save(file)) == LARGE


def test_a_request_class_of_the_developer_survives(tmp_path):
    class Special(Request):
        answer = 42

    app = Flask("app", instance_path=str(tmp_path))
    app.request_class = Special
    Store(app)
    with app.test_request_context(method="POST", data={"file": (io.BytesIO(LARGE), "a.bin")}):
        assert isinstance(request._get_current_object(), Special)
        assert request.answer == 42
        assert isinstance(request.files["file"].stream, ReceivedFile)


def test_a_request_class_set_later_means_the_ordinary_way(make_app):
    app = make_app()
    app.request_class = Request
    with app.test_request_context(method="POST", data={"file": (io.BytesIO(LARGE), "a.bin")}):
        assert not isinstance(request.files["file"].stream, ReceivedFile)
        assert content_of(Provider().save(request.files["file"])) == LARGE


class ElsewhereStore(LocalStore):
    """Has its uploads written where it says."""

    def receive(self, filename, content_type, content_length):
        self.app.config["RECEIVED"] = (filename, content_type, content_length)
        return io.BytesIO() if filename == "mine.txt" else None


def test_a_store_says_where_its_uploads_land(app, monkeypatch):
    monkeypatch.setattr(app.extensions["store"], "provider", ElsewhereStore)
    with app.test_request_context(
        method="POST", data={"mine": (io.BytesIO(LARGE), "mine.txt"), "other": (io.BytesIO(b"o"), "other.txt")}
    ):
        assert isinstance(request.files["mine"].stream, io.BytesIO)
        assert isinstance(request.files["other"].stream, tempfile.SpooledTemporaryFile)
        assert app.config["RECEIVED"] == ("other.txt", "text/plain", None)


def test_a_store_that_says_nothing_gets_werkzeugs_own_file(app):
    assert BaseStore.receive(Provider(), "a.txt", "text/plain", None) is None


@pytest.mark.parametrize(
    ("setting", "data"),
    [
        ({"MAX_CONTENT_LENGTH": 1000}, {"file": (io.BytesIO(b"x" * 2000), "a.bin")}),
        ({"MAX_FORM_PARTS": 2}, {"a": "1", "b": "2", "c": "3"}),
        ({"MAX_FORM_MEMORY_SIZE": 1000}, {"text": "x" * 2000}),
    ],
)
def test_the_limits_of_flask_hold(make_app, setting, data):
    app = make_app(**setting)

    @app.post("/")
    def view():
        return str(len(request.files) + len(request.form))

    answer = app.test_client().post("/", data=data, content_type="multipart/form-data")

    assert answer.status_code == 413
    assert files_below(app.instance_path) == []


def test_a_large_upload_passes_a_small_limit_for_text(make_app):
    app = make_app(MAX_FORM_MEMORY_SIZE=100_000)
    with app.test_request_context(method="POST", data={"file": (io.BytesIO(LARGE), "a.bin"), "text": "short"}):
        assert content_of(Provider().save(request.files["file"])) == LARGE
        assert request.form["text"] == "short"


def test_other_bodies_are_read_as_ever(make_app):
    app = make_app()

    @app.post("/form")
    def form():
        return request.form["text"]

    @app.post("/stream")
    def stream():
        return request.stream.read()

    @app.post("/twice")
    def twice():
        return str(len(request.get_data())) + str(len(request.files["file"].read()))

    client = app.test_client()

    assert client.post("/form", data={"text": "url-encoded"}).text == "url-encoded"
    assert client.post("/stream", data=LARGE, content_type="application/octet-stream").data == LARGE
    answer = client.post("/twice", data={"file": (io.BytesIO(LARGE), "a.bin")}).text
    assert answer.endswith(str(len(LARGE)))
    assert int(answer.removesuffix(str(len(LARGE)))) > len(LARGE)


def test_an_application_without_a_store_is_not_disturbed():
    app = Flask("app")
    app.request_class = request_class(Request)
    with app.test_request_context(method="POST", data={"file": (io.BytesIO(LARGE), "a.bin")}):
        assert request.files["file"].read() == LARGE
