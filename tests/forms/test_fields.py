from __future__ import annotations

import logging
import os
import re
from contextlib import contextmanager
from types import SimpleNamespace

import flask_wtf.file
import pytest
import wtforms.validators
from flask import request, session
from flask_wtf import FlaskForm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import CombinedMultiDict, FileStorage, MultiDict
from wtforms import FieldList, FileField, Form, FormField, StringField
from wtforms.meta import DefaultMeta
from wtforms.validators import DataRequired, ValidationError

import flask_store.forms
from flask_store import Provider, Store, StoreError, StoreFile
from flask_store.forms import FileAllowed, FileCount, FileRequired, MultipleStoreFileField, StoreFileField, TotalSize


class PhotoForm(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photo = StoreFileField(destination="photos")


class PlainPhotoForm(Form):
    photo = StoreFileField(destination="photos")


@pytest.fixture
def row():
    """A row whose photo is kept as a relative path."""
    return SimpleNamespace(title="Sea", photo="photos/old.jpg")


class PhotosForm(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photos = MultipleStoreFileField(destination="photos")


REQUIRED = "This field is required."
GONE = "The file that was kept is no longer there. Please choose it again."
BOTH = "Choose a new file or remove the present one, not both."


@pytest.fixture
def visit(post):
    """Return a function as ``post``, whose requests are all of one visitor: what the session holds stays."""
    cookies = {}

    @contextmanager
    def visit(data, **kwargs):
        with post(data, **kwargs):
            session.update(cookies)
            yield
            cookies.update(session)

    return visit


@pytest.fixture
def keep(visit):
    """Return a function that sends files with a form that fails, and returns the tokens that its page has."""

    def keep(form_class, name, files):
        with visit({"title": "", name: files}):
            form = form_class()
            assert not form.validate_on_submit()
            return [kept.token for kept in form[name]._kept_uploads()]

    return keep


@pytest.fixture
def save(app, upload):
    """Return a function that stores a file and returns it."""
    return lambda content, filename: Provider(destination="photos").save(upload(content, filename))


def warnings_logged(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


class TestAnUpload:
    def test_is_the_data_until_the_form_is_valid(self, post):
        with post({"photo": (b"waves", "sea.jpg")}):
            field = PhotoForm().photo

            assert isinstance(field.data, FileStorage)
            assert field.data.read() == b"waves"

    def test_has_a_safe_name_and_all_else_that_the_client_told(self, upload):
        sent = upload(b"waves", "../../etc/sea.jpg", name="photo", content_type="image/jpeg; q=1", content_length=5)
        field = PlainPhotoForm(MultiDict({"photo": sent})).photo

        assert field.data.filename == "sea.jpg"
        assert field.data.read() == b"waves"
        assert sent.stream.tell() == 5  # it is the same stream
        assert field.data.name == "photo"
        assert field.data.content_type == "image/jpeg; q=1"
        assert field.data.mimetype == "image/jpeg"
        assert field.data.content_length == 5

    def test_leaves_the_files_of_the_request_untouched(self, post, stored):
        with post({"title": "Sea", "photo": (b"waves", "../C: sea?.jpg")}):
            before = request.files["photo"], request.files["photo"].filename, request.files["photo"].stream
            assert PhotoForm().validate_on_submit()

            assert (request.files["photo"], request.files["photo"].filename, request.files["photo"].stream) == before
            assert before[1] == "../C: sea?.jpg"
            assert not request.files["photo"].stream.closed

    def test_with_a_name_and_no_bytes_is_a_file(self, post, stored):
        with post({"title": "Sea", "photo": (b"", "empty.jpg")}):
            form = PhotoForm()
            assert form.validate_on_submit()

        assert form.photo.data == StoreFile("empty.jpg", "photos")
        assert stored() == {"photos/empty.jpg": b""}

    def test_with_no_usable_name_is_a_file_too(self, post, stored):
        with post({"title": "Sea", "photo": (b"waves", "...")}):
            assert PhotoForm().validate_on_submit()

        assert list(stored().values()) == [b"waves"]
        assert re.fullmatch(r"photos/file(_[\w-]{14})?", next(iter(stored())))  # on a disk it has a random part

    def test_keeps_the_name_of_the_visitor_in_any_script(self, post, stored):
        with post({"title": "Sea", "photo": (b"waves", "夏の 写真.jpg")}):
            assert PhotoForm().validate_on_submit()

        assert stored() == {"photos/夏の 写真.jpg": b"waves"}

    def test_of_several_under_one_name_is_the_first_and_no_other_is_stored(self, post, stored):
        class StrictForm(FlaskForm):
            photo = StoreFileField(validators=[flask_store.forms.FileAllowed(["jpg"])])

        with post({"photo": [(b"waves", "sea.jpg"), (b"<?php", "shell.php")]}):
            assert StrictForm().validate_on_submit()

        assert stored() == {"sea.jpg": b"waves"}

    def test_counts_before_an_empty_file_or_a_text_of_its_name(self, upload, stored):
        sent = MultiDict([("photo", "text"), ("photo", upload(b"", "")), ("photo", upload(b"waves", "sea.jpg"))])
        form = PlainPhotoForm(sent)
        assert form.validate()

        assert stored() == {"photos/sea.jpg": b"waves"}

    @pytest.mark.parametrize("how", ["data", "obj"])
    def test_may_be_given_by_the_application(self, how, upload, stored):
        given = {"photo": upload(b"waves", "../sea.jpg")}
        form = PlainPhotoForm(**{how: given if how == "data" else SimpleNamespace(**given)})
        assert form.photo.data.filename == "sea.jpg"
        assert form.photo.existing is None
        assert form.validate()

        assert form.photo.data == StoreFile("sea.jpg", "photos")
        assert form.photo.existing is None
        assert stored() == {"photos/sea.jpg": b"waves"}

    def test_given_by_the_application_is_kept_where_the_request_sends_none(self, post, upload, stored):
        with post({"title": "Sea", "photo": (b"", "")}):
            form = PhotoForm(data={"photo": upload(b"waves", "sea.jpg")})
            assert form.validate_on_submit()

        assert stored() == {"photos/sea.jpg": b"waves"}

    def test_of_the_request_counts_before_one_given_by_the_application(self, post, upload, stored):
        with post({"title": "Sea", "photo": (b"sent", "sent.jpg")}):
            form = PhotoForm(data={"photo": upload(b"given", "given.jpg")})
            assert form.validate_on_submit()

        assert stored() == {"photos/sent.jpg": b"sent"}

    def test_given_without_a_name_is_no_file(self, upload):
        assert PlainPhotoForm(data={"photo": upload(b"", "")}).photo.data is None


class TestNoFile:
    @pytest.mark.parametrize("data", [{"title": "Sea"}, {"title": "Sea", "photo": (b"", "")}, {}])
    def test_is_none(self, data, post):
        with post(data):
            form = PhotoForm()
            form.validate_on_submit()

        assert form.photo.data is None
        assert form.photo.existing is None

    def test_is_none_in_a_form_that_was_not_sent(self, app):
        with app.test_request_context():
            assert PhotoForm().photo.data is None


class TestExisting:
    """It is the file that the form was opened with, whatever happens to the form."""

    @pytest.fixture(params=["a path", "a StoreFile"])
    def row(self, request, app, row):
        if request.param == "a StoreFile":
            row.photo = StoreFile("old.jpg", "photos")
        return row

    @pytest.fixture
    def old(self, app):
        return StoreFile("old.jpg", "photos")

    def test_is_there_when_the_page_is_opened(self, app, row, old):
        with app.test_request_context():
            field = PhotoForm(obj=row).photo

        assert field.existing == old
        assert field.data == old

    def test_is_there_after_a_failed_submission_with_a_new_file(self, post, row, old):
        with post({"title": "", "photo": (b"new", "new.jpg")}):
            form = PhotoForm(obj=row)
            assert not form.validate_on_submit()

        assert form.photo.existing == old
        assert isinstance(form.photo.data, FileStorage)

    def test_is_there_after_a_failed_submission_without_a_file(self, post, row, old):
        with post({"title": "", "photo": (b"", "")}):
            form = PhotoForm(obj=row)
            assert not form.validate_on_submit()

        assert form.photo.existing == old
        assert form.photo.data == old

    def test_is_there_after_it_was_replaced(self, post, row, old):
        with post({"title": "Sea", "photo": (b"new", "new.jpg")}):
            form = PhotoForm(obj=row)
            assert form.validate_on_submit()
            form.populate_obj(row)

        assert form.photo.existing == old
        assert form.photo.data == StoreFile("new.jpg", "photos")
        assert row.photo == "photos/new.jpg"

    def test_is_kept_where_no_file_is_sent(self, post, row, old, stored):
        before = row.photo
        with post({"title": "Lake", "photo": (b"", "")}):
            form = PhotoForm(obj=row)
            assert form.validate_on_submit()
            form.populate_obj(row)

        assert form.photo.existing == old
        assert form.photo.data == old
        assert row.title == "Lake"
        assert row.photo is before
        assert stored() == {}

    def test_may_come_as_data_or_as_a_keyword(self, app, row, old):
        assert PlainPhotoForm(data={"photo": row.photo}).photo.existing == old
        assert PlainPhotoForm(photo=row.photo).photo.existing == old

    def test_is_told_at_any_depth(self, post, row, old):
        class Outer(FlaskForm):
            title = StringField(validators=[DataRequired()])
            album = FormField(PlainPhotoForm)
            photos = FieldList(StoreFileField())

        page = SimpleNamespace(title="Sea", album=row, photos=[row.photo])
        with post({"title": "", "album-photo": (b"", ""), "photos-0": (b"new", "new.jpg")}):
            form = Outer(obj=page)
            assert not form.validate_on_submit()

        assert form.album.form.photo.existing == old
        assert form.photos[0].existing == old

    def test_comes_never_from_the_request(self, post):
        with post({"title": "Sea", "photo": "photos/of-somebody-else.jpg"}):
            form = PhotoForm()
            assert form.validate_on_submit()

        assert form.photo.existing is None
        assert form.photo.data is None

    def test_is_none_where_nothing_is_stored_yet(self, app, caplog):
        for nothing in (None, ""):
            field = PlainPhotoForm(data={"photo": nothing}).photo

            assert field.existing is None
            assert field.data is None
        assert warnings_logged(caplog) == []


INVALID_PATHS = [
    "../secret.txt",
    "photos/../../secret.txt",
    "/etc/secret.txt",
    "..\\secret.txt",
    "photos//a.jpg",
    ".hidden",
    "photos/a.jpg\0",
    "https://example.com/a.jpg",
    "//example.com/a.jpg",
    "data:image/png;base64,AAAA",
    b"photos/a.jpg",
    42,
    ["photos/a.jpg"],
]


class TestAnInvalidStoredPath:
    @pytest.mark.parametrize("path", INVALID_PATHS, ids=repr)
    def test_is_logged_and_treated_as_no_file(self, path, row, app, caplog):
        row.photo = path
        with app.test_request_context():
            field = PhotoForm(obj=row).photo

        assert field.existing is None
        assert field.data is None
        assert "<a " not in field()
        [message] = warnings_logged(caplog)
        assert "'photo'" in message
        assert repr(path) in message

    @pytest.mark.parametrize("path", INVALID_PATHS, ids=repr)
    def test_leaves_the_form_usable(self, path, row, post, stored):
        row.photo = path
        with post({"title": "Sea", "photo": (b"new", "new.jpg")}):
            form = PhotoForm(obj=row)
            assert form.validate_on_submit()
            form.populate_obj(row)

        assert row.photo == "photos/new.jpg"
        assert stored() == {"photos/new.jpg": b"new"}

    def test_stays_in_the_row_where_no_file_is_sent(self, row, post):
        row.photo = "https://example.com/a.jpg"
        with post({"title": "Sea"}):
            form = PhotoForm(obj=row)
            assert form.validate_on_submit()
            form.populate_obj(row)

        assert row.photo == "https://example.com/a.jpg"


class TestPopulateObj:
    """What is not saved is told in ``test_saving.py``."""

    def test_writes_the_relative_path_that_a_column_keeps(self, post):
        row = SimpleNamespace()
        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            form = PhotoForm()
            assert form.validate_on_submit()
            form.populate_obj(row)

        assert vars(row) == {"title": "Sea", "photo": "photos/sea.jpg"}

    def test_leaves_the_attribute_alone_where_nothing_was_sent(self, post, row):
        with post({"title": "Lake", "photo": (b"", "")}):
            form = PhotoForm()
            assert form.validate_on_submit()
            form.populate_obj(row)

        assert vars(row) == {"title": "Lake", "photo": "photos/old.jpg"}

    def test_of_a_form_field_writes_to_the_inner_object(self, post, row):
        class Outer(FlaskForm):
            album = FormField(PlainPhotoForm)

        page = SimpleNamespace(album=row)
        with post({"album-photo": (b"new", "new.jpg")}):
            form = Outer(obj=page)
            assert form.validate_on_submit()
            form.populate_obj(page)

        assert page.album is row
        assert row.photo == "photos/new.jpg"

    def test_of_a_list_replaces_what_was_sent_and_keeps_the_rest(self, post):
        class Outer(FlaskForm):
            photos = FieldList(StoreFileField(destination="photos"))

        page = SimpleNamespace(photos=["photos/0.jpg", "photos/1.jpg"])
        sent = {"photos-0": (b"", ""), "photos-1": (b"new", "new.jpg"), "photos-2": (b"more", "more.jpg")}
        with post(sent):
            form = Outer(obj=page)
            assert form.validate_on_submit()
            form.populate_obj(page)

        assert page.photos == ["photos/0.jpg", "photos/new.jpg", "photos/more.jpg"]

    def test_of_a_list_of_forms_writes_to_each_object(self, post):
        class Outer(FlaskForm):
            albums = FieldList(FormField(PlainPhotoForm))

        albums = [SimpleNamespace(photo="photos/0.jpg"), SimpleNamespace(photo=None)]
        page = SimpleNamespace(albums=list(albums))
        with post({"albums-0-photo": (b"", ""), "albums-1-photo": (b"new", "new.jpg")}):
            form = Outer(obj=page)
            assert form.validate_on_submit()
            form.populate_obj(page)

        assert page.albums == albums
        assert [album.photo for album in albums] == ["photos/0.jpg", "photos/new.jpg"]

    def test_of_a_list_raises_for_an_upload_that_is_not_saved(self, post):
        class Outer(FlaskForm):
            photos = FieldList(StoreFileField())

        page = SimpleNamespace(photos=["old.jpg"])
        with post({"photos-0": (b"new", "new.jpg")}), pytest.raises(StoreError, match="'photos-0' is not saved"):
            Outer(obj=page).populate_obj(page)

        assert page.photos == ["old.jpg"]


class TestATextInPlaceOfAFile:
    def test_is_no_file_and_in_debug_mode_a_warning_names_enctype(self, app, post, stored, caplog):
        app.debug = True
        with post({"title": "Sea", "photo": "sea.jpg"}):
            form = PhotoForm()
            assert form.validate_on_submit()

        assert form.photo.data is None
        assert stored() == {}
        [message] = warnings_logged(caplog)
        assert 'enctype="multipart/form-data"' in message
        assert "'photo'" in message

    def test_in_json_is_no_file_either(self, app, caplog):
        app.debug = True
        with app.test_request_context(method="POST", json={"title": "Sea", "photo": "sea.jpg"}):
            form = PhotoForm()
            assert form.validate_on_submit()

        assert form.photo.data is None
        assert "enctype" in warnings_logged(caplog)[0]

    def test_leaves_the_existing_file(self, post, row):
        with post({"title": "Sea", "photo": "new.jpg"}):
            form = PhotoForm(obj=row)
            assert form.validate_on_submit()

        assert str(form.photo.data) == "photos/old.jpg"

    def test_is_no_warning_without_debug_mode(self, post, caplog):
        with post({"title": "Sea", "photo": "sea.jpg"}):
            PhotoForm()

        assert warnings_logged(caplog) == []

    def test_is_no_warning_in_a_multipart_request(self, app, post, caplog):
        app.debug = True
        with post({"title": "Sea", "photo": "sea.jpg"}, content_type="multipart/form-data"):
            form = PhotoForm()

        assert form.photo.data is None
        assert warnings_logged(caplog) == []

    def test_is_no_warning_beside_a_file_or_where_there_is_no_request(self, app, upload, caplog):
        app.debug = True
        PlainPhotoForm(MultiDict([("photo", "sea.jpg"), ("photo", upload())]))
        PlainPhotoForm(MultiDict({"photo": "sea.jpg"}))

        assert warnings_logged(caplog) == []


class TestDestination:
    def test_may_be_several_directories_deep(self, upload, stored):
        class DeepForm(Form):
            photo = StoreFileField(destination="2024/summer/sea")

        assert DeepForm(data={"photo": upload(b"waves", "sea.jpg")}).validate()

        assert stored() == {"2024/summer/sea/sea.jpg": b"waves"}

    def test_is_the_root_of_the_store_where_none_is_given(self, upload, stored):
        class RootForm(Form):
            plain = StoreFileField()
            asked = StoreFileField(destination=lambda form: None)

        form = RootForm(data={"plain": upload(b"1", "1.jpg"), "asked": upload(b"2", "2.jpg")})
        assert form.validate()

        assert stored() == {"1.jpg": b"1", "2.jpg": b"2"}

    def test_may_be_told_by_the_form_when_the_upload_is_saved(self, post, stored):
        asked = []

        def album(form):
            asked.append(form)
            return f"albums/{form.title.data}"

        class AlbumForm(FlaskForm):
            photo = StoreFileField(destination=album)
            title = StringField(validators=[DataRequired()], filters=[lambda title: title and title.lower()])

        with post({"title": "", "photo": (b"waves", "sea.jpg")}):
            assert not AlbumForm().validate_on_submit()
        assert asked == []
        with post({"title": "Summer", "photo": (b"waves", "sea.jpg")}):
            form = AlbumForm()
            assert form.validate_on_submit()
            assert form.validate_on_submit()

        assert asked == [form]
        assert stored() == {"albums/summer/sea.jpg": b"waves"}

    def test_is_asked_of_the_form_that_the_field_is_in(self, post, stored):
        class AlbumForm(Form):
            title = StringField()
            photos = FieldList(StoreFileField(destination=lambda form: form.title.data))

        class Outer(FlaskForm):
            title = StringField()
            albums = FieldList(FormField(AlbumForm))

        sent = {"title": "outer"}
        for index, title in enumerate(["summer", "winter"]):
            sent |= {f"albums-{index}-title": title, f"albums-{index}-photos-0": (title.encode(), "a.jpg")}
        with post(sent):
            assert Outer().validate_on_submit()

        assert stored() == {"summer/a.jpg": b"summer", "winter/a.jpg": b"winter"}

    @pytest.mark.parametrize("hostile", ["../outside", "a/../../outside", "..\\outside", "{tmp_path}/outside", ".git"])
    def test_told_by_a_visitor_never_leaves_the_store(self, hostile, post, stored, tmp_path, caplog):
        class AlbumForm(FlaskForm):
            title = StringField()
            photo = StoreFileField(destination=lambda form: form.title.data)

        outside = tmp_path / "outside"
        outside.mkdir()
        with post({"title": hostile.format(tmp_path=tmp_path), "photo": (b"waves", "sea.jpg")}):
            form = AlbumForm()
            assert not form.validate_on_submit()

        assert list(form.errors) == ["photo"]
        assert "outside" not in str(form.errors)
        assert len(warnings_logged(caplog)) == 1
        assert stored() == {}
        assert list(outside.iterdir()) == []


# What a client may call a file, and the name under which it is stored where only JPEG is allowed; None if refused.
SPELLINGS = [
    ("photo.jpg", "photo.jpg"),
    ("photo.JPG", "photo.JPG"),
    ("shell.php", None),
    ("shell.PhP", None),
    ("shell", None),
    ("jpg", None),
    ("", None),
    # Double extensions: the last one counts.
    ("shell.php.jpg", "shell.php.jpg"),
    ("photo.jpg.php", None),
    # What a file system or a later step would cut off the end.
    ("photo.jpg.", "photo.jpg"),
    ("photo.jpg ", "photo.jpg"),
    ("shell.php.", None),
    ("shell.php ", None),
    ("shell.php. .", None),
    ("shell.php\u3000", None),
    ("photo.jpg.php\u200d", None),
    # NUL and other characters that cannot be seen.
    ("shell.php\0.jpg", "shell.php.jpg"),
    ("photo.jpg\0.php", None),
    ("photo.jpg\r\n.php", None),
    ("photo\u202egpj.php", None),
    ("photo.j\u200bpg", "photo.jpg"),
    ("shell.ph\u200bp", None),
    # Overlong: cutting never makes a file that was not asked for.
    ("x" * 300 + ".jpg", "x" * 251 + ".jpg"),
    ("写" * 200 + ".jpg", "写" * 83 + ".jpg"),
    ("x" * 251 + ".jpg.php", None),
    ("x" * 251 + ".php" + "y" * 60 + ".jpg", "x" * 251 + ".jpg"),
    ("photo.jpg" + "x" * 300, None),
    ("shell.php." + "x" * 300 + ".jpg", ("shell.php." + "x" * 300)[:251] + ".jpg"),
    # Streams of NTFS.
    ("shell.php:.jpg", "shell.php_.jpg"),
    ("photo.jpg:shell.php", None),
    ("photo.jpg::$DATA", None),
    # Other characters that some program ends a name at.
    ("photo.jpg;.php", None),
    ("photo.jpg?.php", None),
    ("photo.jpg#.php", None),
    ("photo.jpg%00.php", None),
    ("photo.jpg/", None),
    ("photo.jpg/shell.php", None),
    ("photo.jpg\\shell.php", None),
    ("shell.php/photo.jpg", "photo.jpg"),
    ("../../photo.jpg", "photo.jpg"),
    # Full-width letters and dots stay what they are: no extension.
    ("photo．jpg", None),
    ("photo.ｊｐｇ", None),
    # Dot-files, names of devices.
    (".jpg", "file.jpg"),
    (".htaccess", None),
    ("...jpg", "file.jpg"),
    ("con.jpg", "_con.jpg"),
]

PIECES = [*". /\\:;%?*\0\u200d\u202e．", ".jpg", ".JPG", ".php", ".tar", ".gz", "con", "x" * 250, "é"]


def form_with(file_allowed):
    class StrictForm(Form):
        photo = StoreFileField(validators=[file_allowed(["jpg"])])

    return StrictForm


ours_and_theirs = pytest.mark.parametrize(
    "strict_form",
    [form_with(flask_store.forms.FileAllowed), form_with(flask_wtf.file.FileAllowed)],
    ids=["FileAllowed", "FileAllowed of Flask-WTF"],
)


@ours_and_theirs
class TestAnAllowList:
    """Validators judge the name under which the file will be stored."""

    @pytest.mark.parametrize(("spelling", "name"), SPELLINGS)
    def test_meets_the_final_name(self, strict_form, spelling, name, upload, stored):
        strict_form(data={"photo": upload(b"x", spelling)}).validate()

        assert list(stored()) == ([name] if name else [])

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(st.sampled_from(PIECES) | st.characters(), max_size=6).map("".join),
        st.sampled_from(["", ".jpg", ".JPG ", ".jpg.", ".jpg:", ".jpg\0.php"]),
    )
    def test_lets_no_other_extension_into_the_store(self, strict_form, app, upload, start, end):
        form = strict_form(MultiDict({"photo": upload(b"x", start + end)}))
        if form.validate() and form.photo.data is not None:
            assert form.photo.data.filename.lower().endswith(".jpg")
            assert os.path.isfile(form.photo.data.absolute_path())

    def test_is_not_left_where_the_name_is_taken(self, strict_form, upload, stored):
        for _ in range(3):
            assert strict_form(data={"photo": upload(b"x", "shell.php.jpg")}).validate()

        assert len(stored()) == 3
        assert all(name.startswith("shell.php") and name.endswith(".jpg") for name in stored())


class TestTheField:
    def test_is_a_file_field_to_macro_libraries(self, app):
        field = PlainPhotoForm().photo

        assert field.type == "FileField"
        assert isinstance(field, FileField)

    def test_takes_what_every_field_takes(self, app):
        class FullForm(Form):
            photo = StoreFileField(
                "Your photo", [DataRequired()], destination="photos", description="A JPEG", id="p", name="picture"
            )

        field = FullForm().photo

        assert field.label.text == "Your photo"
        assert field.description == "A JPEG"
        assert (field.id, field.name) == ("p", "picture")

    def test_works_under_another_html_name(self, upload, stored):
        class RenamedForm(Form):
            photo = StoreFileField(name="picture")

        assert RenamedForm(MultiDict({"picture": upload(b"waves", "sea.jpg")})).validate()

        assert stored() == {"sea.jpg": b"waves"}

    def test_bound_without_a_form_is_left_alone(self, app, upload, stored):
        field = StoreFileField(destination="photos").bind(form=None, name="photo", _meta=DefaultMeta())
        field.process(CombinedMultiDict([MultiDict({"photo": upload(b"waves", "../sea.jpg")})]))
        field.post_process()

        assert field.validate(None)
        assert field.data.filename == "sea.jpg"
        assert stored() == {}


# The names of the files that a form is opened with; what is sent: "new", "kept", "lost" (a token for nothing), "-"
# before what is removed; what the rules find then: an upload, a file that was there before, or nothing; and what is
# said whatever they say.
STATES = {
    "nothing": ("", "", "nothing", None),
    "new": ("", "new", "upload", None),
    "kept": ("", "kept", "upload", None),
    "kept, and new": ("", "kept new", "upload", None),
    "kept, and removed": ("", "kept -kept", "nothing", None),
    "kept, and removed for new": ("", "kept -kept new", "upload", None),
    "lost": ("", "lost", "no matter", GONE),
    "old": ("old.jpg", "", "file", None),
    "old, and new": ("old.jpg", "new", "upload", None),
    "old, and kept": ("old.jpg", "kept", "upload", None),
    "old, and kept and removed": ("old.jpg", "kept -kept", "file", None),
    "old, and lost": ("old.jpg", "lost", "no matter", GONE),
    "old, removed": ("old.jpg", "-old.jpg", "nothing", None),
    "old, removed, and kept and removed": ("old.jpg", "-old.jpg kept -kept", "nothing", None),
    "old, removed, and lost": ("old.jpg", "-old.jpg lost", "no matter", GONE),
    "old, and somebody else's removed": ("old.jpg", "-else.jpg", "file", None),
    "old, and nothing removed": ("old.jpg", "-", "file", None),
}
STATES_OF_ONE = STATES | {
    "lost, and new": ("", "lost new", "upload", None),
    "old, removed, and new": ("old.jpg", "-old.jpg new", "upload", BOTH),
    "old, removed, and kept": ("old.jpg", "-old.jpg kept", "upload", BOTH),
}
STATES_OF_SEVERAL = STATES | {
    "lost, and new": ("", "lost new", "upload", GONE),
    "old, removed, and new": ("old.jpg", "-old.jpg new", "upload", None),
    "old, removed, and kept": ("old.jpg", "-old.jpg kept", "upload", None),
    "one of two old removed": ("old.jpg older.jpg", "-old.jpg", "file", None),
    "both old removed": ("old.jpg older.jpg", "-old.jpg -older.jpg", "nothing", None),
}

PNG = ["png"]

# Each rule, and what it says of an upload, new or kept, named new.jpg and of three bytes; of a file that was there
# before; and of nothing. None is no error.
RULES = {
    "no rule": ([], None, None, None),
    "InputRequired": ([wtforms.validators.InputRequired()], None, None, REQUIRED),
    "DataRequired": ([wtforms.validators.DataRequired()], None, None, REQUIRED),
    "Optional": ([wtforms.validators.Optional()], None, None, None),
    "Optional, FileAllowed": ([wtforms.validators.Optional(), FileAllowed(PNG)], "allowed: png", None, None),
    # It ends the rules where there is nothing; a file that was there before is something.
    "Optional, FileRequired": ([wtforms.validators.Optional(), FileRequired()], None, None, None),
    "FileRequired": ([FileRequired()], None, None, REQUIRED),
    "FileAllowed": ([FileAllowed(PNG)], "allowed: png", None, None),
    "FileSize": ([flask_store.forms.FileSize(2)], "too large", None, None),
    "FileCount": ([FileCount(min=1)], None, None, "at least 1 file."),
    # Those of Flask-WTF know uploads only: theirs asks for one every time.
    "FileRequired of Flask-WTF": ([flask_wtf.file.FileRequired()], None, REQUIRED, REQUIRED),
    "FileAllowed of Flask-WTF": ([flask_wtf.file.FileAllowed(PNG)], "approved extension: png", None, None),
    "FileSize of Flask-WTF": ([flask_wtf.file.FileSize(2)], "between 0 and 2", None, None),
}


def rule_form(field_class, rules=()):
    """Return a form; all of them have one name, so that a token from one without rules is good for the others."""
    fields = {"title": StringField(validators=[DataRequired()]), "photo": field_class(validators=rules)}
    return type("RuleForm", (FlaskForm,), fields)


class TestEveryRuleInEveryState:
    @pytest.fixture
    def submit(self, visit, keep, save):
        """Return a function that opens a form in some state and returns it, validated."""

        def submit(field_class, rules, existing, sent):
            values = {path: str(save(b"old", path)) for path in existing.split()}
            token = "kept.nothing"
            if "kept" in sent:
                [token] = keep(rule_form(field_class), "photo", [(b"new", "new.jpg")])
                # An id is in the value of the checkbox.
                values["kept"] = self.kept_id(token, field_class, visit)
            data = {"title": "Sea", "photo": [], "photo-clear": []}
            for word in sent.split():
                if word.startswith("-"):
                    data["photo-clear"].append(values.get(word[1:], word[1:]))
                else:
                    data["photo"].append((b"new", "new.jpg") if word == "new" else token)
            row = SimpleNamespace(photo=[str(path) for path in values.values() if "/" in path])
            if not issubclass(field_class, MultipleStoreFileField):
                row.photo = next(iter(row.photo), None)
            with visit(data):
                form = rule_form(field_class, rules)(obj=row)
                form.is_valid = form.validate_on_submit()
                form.row = row
            return form

        return submit

    def kept_id(self, token, field_class, visit):
        with visit({"title": "", "photo": token}):
            form = rule_form(field_class)()
            form.validate_on_submit()
            [kept] = form.photo._kept_uploads()
            return kept.id

    def check(self, form, of, error, rule):
        _, of_upload, of_file, of_nothing = RULES[rule]
        refusal = {"upload": of_upload, "file": of_file, "nothing": of_nothing, "no matter": None}[of]

        errors = list(form.photo.errors)
        assert form.is_valid is not bool(errors)
        if error is not None:
            assert errors.pop(0) == error
        assert len(errors) == (refusal is not None)
        assert (refusal or "") in "".join(errors)

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("state", STATES_OF_ONE)
    def test_of_one_file(self, state, rule, submit):
        existing, sent, of, error = STATES_OF_ONE[state]
        form = submit(StoreFileField, RULES[rule][0], existing, sent)

        self.check(form, of, error, rule)
        replaced = [existing] if form.is_valid and existing and of != "file" else []
        assert [file.filename for file in form.photo.replaced] == replaced

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("state", STATES_OF_SEVERAL)
    def test_of_several(self, state, rule, submit):
        existing, sent, of, error = STATES_OF_SEVERAL[state]
        form = submit(MultipleStoreFileField, RULES[rule][0], existing, sent)

        self.check(form, of, error, rule)
        # Files that were there before stay beside the uploads.
        removed = [path for path in existing.split() if f"-{path}" in sent.split()]
        assert [file.filename for file in form.photo.replaced] == (removed if form.is_valid else [])


class TestRawData:
    """It is what counts, so that the validators of WTForms judge that."""

    def test_is_the_new_file_before_the_kept_and_the_existing_one(self, visit, keep):
        [token] = keep(PhotoForm, "photo", (b"kept", "kept.jpg"))
        with visit({"title": "Sea", "photo": [token, (b"new", "new.jpg")]}):
            form = PhotoForm(obj=SimpleNamespace(photo="old.jpg"))

        assert form.photo.raw_data == [form.photo.data]
        assert form.photo.data.filename == "new.jpg"

    def test_is_the_token_before_the_existing_file(self, visit, keep):
        [token] = keep(PhotoForm, "photo", (b"kept", "kept.jpg"))
        with visit({"title": "Sea", "photo": token}):
            form = PhotoForm(obj=SimpleNamespace(photo="old.jpg"))

        assert form.photo.raw_data == [token]
        assert form.photo.data.filename == "kept.jpg"

    def test_is_the_existing_file_where_nothing_was_sent(self, post, row):
        with post({"title": "Sea", "photo": (b"", "")}):
            form = PhotoForm(obj=row)

        assert form.photo.raw_data == [form.photo.existing]

    @pytest.mark.parametrize("sent", [(b"", ""), "text", "kept.", "kept.nothing", '{"id": 1}'])
    def test_is_empty_where_nothing_counts(self, sent, post):
        with post({"title": "Sea", "photo": sent}):
            assert PhotoForm().photo.raw_data == ()
            assert rule_form(MultipleStoreFileField)().photo.raw_data == ()

    def test_is_empty_where_the_existing_file_is_removed(self, post, row):
        with post({"title": "Sea", "photo-clear": row.photo}):
            assert PhotoForm(obj=row).photo.raw_data == ()

    def test_of_several_is_the_kept_files_and_the_new_ones(self, visit, keep):
        [token] = keep(PhotosForm, "photos", [(b"kept", "kept.jpg")])
        with visit({"title": "Sea", "photos": [(b"new", "new.jpg"), token]}):
            form = PhotosForm(obj=SimpleNamespace(photos=["old.jpg"]))

        assert form.photos.raw_data == [token, form.photos.data[1]]


class TestReplace:
    def test_names_the_old_file_once_the_form_is_valid_and_deletes_nothing(self, post, save, stored):
        old = save(b"old", "old.jpg")
        with post({"title": "Sea", "photo": (b"new", "new.jpg")}):
            form = PhotoForm(obj=SimpleNamespace(photo=old))
            before = form.photo.replaced
            assert form.validate_on_submit()

        assert before == []
        assert form.photo.replaced == [old]
        assert stored() == {"photos/old.jpg": b"old", "photos/new.jpg": b"new"}

    def test_deletes_the_old_file_when_it_is_told_to(self, post, save, stored):
        old = save(b"old", "old.jpg")
        with post({"title": "Sea", "photo": (b"new", "new.jpg")}):
            form = PhotoForm(obj=SimpleNamespace(photo=old))
            assert form.validate_on_submit()
            form.photo.delete_replaced()
            form.photo.delete_replaced()

        assert stored() == {"photos/new.jpg": b"new"}

    def test_gives_the_new_file_another_name_than_the_old_one_has(self, post, save, stored):
        old = save(b"old", "sea.jpg")
        with post({"title": "Sea", "photo": (b"new", "sea.jpg")}):
            form = PhotoForm(obj=SimpleNamespace(photo=old))
            assert form.validate_on_submit()
            form.photo.delete_replaced()

        assert form.photo.data != old
        assert stored() == {str(form.photo.data): b"new"}

    def test_keeps_the_old_file_where_the_form_is_not_valid(self, post, save, stored):
        old = save(b"old", "old.jpg")
        with post({"title": "", "photo": (b"new", "new.jpg")}):
            form = PhotoForm(obj=SimpleNamespace(photo=old))
            assert not form.validate_on_submit()
            form.photo.delete_replaced()

        assert form.photo.replaced == []
        assert stored() == {"photos/old.jpg": b"old"}

    def test_keeps_the_old_file_where_the_form_is_valid_and_then_is_not(self, post, save, stored):
        old = save(b"old", "old.jpg")
        with post({"title": "Sea", "photo": (b"new", "new.jpg")}):
            form = PhotoForm(obj=SimpleNamespace(photo=old))
            assert form.validate_on_submit()
            form.title.data = ""
            assert not form.validate()
            form.photo.delete_replaced()

        assert form.photo.replaced == []
        assert stored()["photos/old.jpg"] == b"old"

    @pytest.mark.parametrize("sent", [{"photo": (b"new", "new.jpg")}, {"photo-clear": "photos/old.jpg"}])
    def test_keeps_the_old_file_where_a_transaction_around_the_form_is_rolled_back(self, sent, post, save, stored):
        old = save(b"old", "old.jpg")
        with post({"title": "Sea", **sent}):
            form = PhotoForm(obj=SimpleNamespace(photo=old))
            with pytest.raises(LookupError), Store().transaction():
                assert form.validate_on_submit()
                assert form.photo.replaced == [old]
                raise LookupError
            form.photo.delete_replaced()

        assert form.photo.replaced == []
        assert stored() == {"photos/old.jpg": b"old"}

    def test_keeps_the_old_file_where_another_upload_could_not_be_stored(self, post, save, stored):
        class TwoForm(FlaskForm):
            photo = StoreFileField(destination="photos")
            wrong = StoreFileField(destination="../outside")

        old = save(b"old", "old.jpg")
        with post({"photo": (b"new", "new.jpg"), "wrong": (b"new", "new.jpg")}):
            form = TwoForm(obj=SimpleNamespace(photo=old))
            assert not form.validate_on_submit()
            form.photo.delete_replaced()

        assert stored() == {"photos/old.jpg": b"old"}

    def test_logs_an_old_file_that_cannot_be_deleted_and_deletes_the_others(self, post, save, root, tmp_path, caplog):
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "a.jpg").write_bytes(b"canary")
        old = save(b"old", "b.jpg")
        (root / "led-out").symlink_to(outside)
        row = SimpleNamespace(photos=["led-out/a.jpg", str(old)])
        with post({"title": "Sea", "photos-clear": row.photos}):
            form = PhotosForm(obj=row)
            assert form.validate_on_submit()
            form.photos.delete_replaced()

        [message] = warnings_logged(caplog)
        assert "led-out/a.jpg was replaced, but stays in the store" in message
        assert list((root / "photos").iterdir()) == []
        assert (outside / "a.jpg").read_bytes() == b"canary"

    def test_is_no_matter_of_an_old_file_that_is_gone(self, post, caplog):
        with post({"title": "Sea", "photo": (b"new", "new.jpg")}):
            form = PhotoForm(obj=SimpleNamespace(photo="photos/gone.jpg"))
            assert form.validate_on_submit()
            form.photo.delete_replaced()

        assert warnings_logged(caplog) == []

    def test_by_a_kept_file_deletes_the_old_one_alone(self, visit, keep, save, stored):
        [token] = keep(PhotoForm, "photo", (b"new", "new.jpg"))
        old = save(b"old", "old.jpg")
        with visit({"title": "Sea", "photo": token}):
            form = PhotoForm(obj=SimpleNamespace(photo=old))
            assert form.validate_on_submit()
            form.photo.delete_replaced()

        assert stored() == {str(form.photo.data): b"new"}


class TestClear:
    def test_leaves_no_file_and_deletes_nothing_by_itself(self, post, save, stored):
        row = SimpleNamespace(title="Sea", photo=str(save(b"old", "old.jpg")))
        with post({"title": "Lake", "photo": (b"", ""), "photo-clear": row.photo}):
            form = PhotoForm(obj=row)
            assert form.photo.data is None
            assert form.validate_on_submit()
            form.populate_obj(row)

        assert form.photo.data is None
        assert vars(row) == {"title": "Lake", "photo": None}
        assert form.photo.existing == StoreFile("old.jpg", "photos")
        assert stored() == {"photos/old.jpg": b"old"}

    def test_has_the_old_file_deleted_when_that_is_told(self, post, save, stored):
        row = SimpleNamespace(photo=save(b"old", "old.jpg"))
        with post({"title": "Lake", "photo-clear": str(row.photo)}):
            form = PhotoForm(obj=row)
            assert form.validate_on_submit()
            form.photo.delete_replaced()

        assert stored() == {}

    def test_is_told_while_the_form_is_not_valid(self, post, row):
        with post({"title": "", "photo-clear": row.photo}):
            form = PhotoForm(obj=row)
            assert not form.validate_on_submit()

        assert "checked" in form.photo()
        assert form.photo.existing == StoreFile("old.jpg", "photos")
        assert form.photo.replaced == []

    @pytest.mark.parametrize("path", ["photos/else.jpg", "../old.jpg", "", "old.jpg", "photos/../photos/old.jpg", "on"])
    def test_of_another_file_than_the_field_has_does_nothing(self, path, post, save, stored):
        files = {str(save(b"old", "old.jpg")): b"old", str(save(b"else", "else.jpg")): b"else"}
        row = SimpleNamespace(photo="photos/old.jpg")
        with post({"title": "Sea", "photo-clear": path}):
            form = PhotoForm(obj=row)
            assert form.validate_on_submit()
            form.populate_obj(row)
            form.photo.delete_replaced()

        assert form.photo.replaced == []
        assert row.photo == "photos/old.jpg"
        assert stored() == files

    @pytest.mark.parametrize(
        "value", [{"a": 1}, [["photos/old.jpg"]], [{}], None, 1, True, "photos/else.jpg"], ids=repr
    )
    def test_by_anything_else_in_json_does_nothing(self, value, app, row):
        for form_class, name in ((PhotoForm, "photo"), (PhotosForm, "photos")):
            with app.test_request_context(method="POST", json={"title": "Sea", f"{name}-clear": value, name: value}):
                form = form_class(data={name: row.photo})
                assert form.validate_on_submit()
                assert form[name].replaced == []
                form[name]()

    def test_in_a_form_without_a_file_does_nothing(self, post):
        with post({"title": "Sea", "photo-clear": "photos/else.jpg"}):
            form = PhotoForm()
            assert form.validate_on_submit()

        assert form.photo.data is None
        assert form.photo.replaced == []

    @pytest.mark.parametrize("field_class", [StoreFileField, MultipleStoreFileField])
    def test_and_a_new_file_is_a_contradiction_only_where_one_takes_the_place_of_the_other(self, field_class, post):
        row = SimpleNamespace(photo="photos/old.jpg")
        with post({"title": "Sea", "photo": (b"new", "new.jpg"), "photo-clear": row.photo}):
            form = rule_form(field_class)(obj=row)
            form.validate_on_submit()

        assert form.errors == ({"photo": [BOTH]} if field_class is StoreFileField else {})

    def test_that_is_a_contradiction_keeps_the_upload_for_the_next_try(self, visit, save, stored):
        row = SimpleNamespace(photo=str(save(b"old", "old.jpg")))
        with visit({"title": "Sea", "photo": (b"new", "new.jpg"), "photo-clear": row.photo}):
            form = PhotoForm(obj=row)
            assert not form.validate_on_submit()
            token = form.photo.kept.token
        with visit({"title": "Sea", "photo": token}):
            form = PhotoForm(obj=row)
            assert form.validate_on_submit()
            form.photo.delete_replaced()

        assert stored() == {str(form.photo.data): b"new"}

    def test_works_at_any_depth_and_with_prefixes(self, post):
        class Outer(FlaskForm):
            album = FormField(PlainPhotoForm)
            photos = FieldList(StoreFileField())
            several = FieldList(FormField(rule_form(MultipleStoreFileField)))

        page = SimpleNamespace(
            album=SimpleNamespace(photo="a.jpg"),
            photos=["b.jpg", "c.jpg"],
            several=[SimpleNamespace(title="", photo=["d.jpg", "e.jpg"])],
        )
        removed = {"page-album-photo": "a.jpg", "page-photos-1": "c.jpg", "page-several-0-photo": "d.jpg"}
        sent = {f"{name}-clear": path for name, path in removed.items()}
        with post({"page-photos-0": (b"", ""), "page-several-0-title": "Sea", **sent}):
            form = Outer(obj=page, prefix="page-", meta={"csrf": False})
            assert form.validate_on_submit(), form.errors
            form.populate_obj(page)

        assert page.album.photo is None
        assert page.photos == ["b.jpg", None]
        assert page.several[0].photo == ["e.jpg"]
        assert [str(file) for file in form.photos[1].replaced] == ["c.jpg"]


class TestSeveralFiles:
    def test_are_the_uploads_in_their_order_until_the_form_is_valid(self, post):
        with post({"photos": [(b"1", "../1.jpg"), (b"", ""), (b"2", "2.jpg"), "text"]}):
            field = PhotosForm().photos

            assert [upload.filename for upload in field.data] == ["1.jpg", "2.jpg"]
            assert [upload.read() for upload in field.data] == [b"1", b"2"]
            assert field.files == field.data

    def test_are_stored_files_once_it_is(self, post, stored):
        with post({"title": "Sea", "photos": [(b"1", "1.jpg"), (b"2", "2.jpg"), (b"3", "2.jpg")]}):
            form = PhotosForm()
            assert form.validate_on_submit()

        first, second, third = form.photos.data
        assert [first, second] == [StoreFile("1.jpg", "photos"), StoreFile("2.jpg", "photos")]
        assert stored() == {str(first): b"1", str(second): b"2", str(third): b"3"}

    @pytest.mark.parametrize("data", [{"title": "Sea"}, {"title": "Sea", "photos": (b"", "")}, {}])
    def test_are_an_empty_list_where_none_is_sent(self, data, post):
        with post(data):
            form = PhotosForm()
            form.validate_on_submit()

        assert form.photos.data == form.photos.files == form.photos.existing == form.photos.kept == []

    @pytest.mark.parametrize("value", [None, [], "", "old.jpg", ["old.jpg"], ("old.jpg",), [None, "old.jpg", ""]])
    def test_may_be_opened_with_what_a_database_keeps(self, value, app, caplog):
        with app.test_request_context():
            field = PhotosForm(data={"photos": value}).photos

        assert [str(file) for file in field.existing] == (["old.jpg"] if value and "old.jpg" in value else [])
        assert field.data == field.existing
        assert warnings_logged(caplog) == []

    def test_may_be_opened_with_stored_files(self, app):
        old = StoreFile("old.jpg")
        with app.test_request_context():
            assert PhotosForm(obj=SimpleNamespace(photos=[old])).photos.existing == [old]
            assert PhotosForm(photos=old).photos.existing == [old]

    @pytest.mark.parametrize("path", INVALID_PATHS[:-1], ids=repr)
    def test_leave_out_an_invalid_path_and_log_it(self, path, app, caplog):
        with app.test_request_context():
            field = PhotosForm(photos=["old.jpg", path]).photos

        assert field.existing == field.data == [StoreFile("old.jpg")]
        [message] = warnings_logged(caplog)
        assert repr(path) in message

    @pytest.mark.parametrize("value", [42, object()], ids=["a number", "an object"])
    def test_that_are_none_at_all_are_logged_and_treated_as_no_file(self, value, app, caplog):
        with app.test_request_context():
            field = PhotosForm(photos=value).photos

        assert field.existing == field.data == []
        assert len(warnings_logged(caplog)) == 1

    def test_given_by_the_application_are_stored_where_the_request_sends_none(self, post, upload, stored):
        with post({"title": "Sea"}):
            form = PhotosForm(data={"photos": [upload(b"1", "../1.jpg"), upload(b"", "")]})
            assert form.validate_on_submit()

        assert stored() == {"photos/1.jpg": b"1"}

    def test_given_by_the_application_are_added_to_existing_ones(self, post, upload, stored):
        with post({"title": "Sea"}):
            form = PhotosForm(data={"photos": ["photos/old.jpg", upload(b"1", "1.jpg")]})
            assert form.validate_on_submit()

        assert [str(file) for file in form.photos.data] == ["photos/old.jpg", "photos/1.jpg"]
        assert stored() == {"photos/1.jpg": b"1"}

    def test_are_added_to_the_existing_ones_that_stay(self, post, save, stored):
        row = SimpleNamespace(title="", photos=[str(save(b"old", name)) for name in ("a.jpg", "b.jpg", "c.jpg")])
        with post({"title": "Sea", "photos": [(b"new", "d.jpg"), (b"new", "e.jpg")], "photos-clear": "photos/b.jpg"}):
            form = PhotosForm(obj=row)
            files = form.photos.files
            assert [upload.filename for upload in form.photos.data] == ["d.jpg", "e.jpg"]
            assert form.validate_on_submit()
            form.populate_obj(row)
            form.photos.delete_replaced()

        paths = ["photos/a.jpg", "photos/c.jpg", "photos/d.jpg", "photos/e.jpg"]
        assert [str(getattr(file, "filename", file)) for file in files] == ["a.jpg", "c.jpg", "d.jpg", "e.jpg"]
        assert row.photos == paths
        assert [str(file) for file in form.photos.existing] == ["photos/a.jpg", "photos/b.jpg", "photos/c.jpg"]
        assert sorted(stored()) == paths

    def test_leave_the_attribute_alone_where_nothing_is_changed(self, post):
        row = SimpleNamespace(title="", photos=["a.jpg", "b.jpg"])
        before = row.photos
        with post({"title": "Sea", "photos": (b"", "")}):
            form = PhotosForm(obj=row)
            assert form.validate_on_submit()
            form.populate_obj(row)

        assert row.photos is before

    def test_are_an_empty_list_in_the_database_where_all_are_removed(self, post):
        row = SimpleNamespace(photos=["a.jpg", "b.jpg"])
        before = row.photos
        with post({"title": "Sea", "photos-clear": ["a.jpg", "b.jpg"]}):
            form = PhotosForm(obj=row)
            assert form.validate_on_submit()
            form.populate_obj(row)

        assert row.photos == []
        assert before == ["a.jpg", "b.jpg"]

    def test_that_are_not_saved_are_never_written_to_the_row(self, post):
        row = SimpleNamespace(photos=["old.jpg"])
        with post({"title": "", "photos": [(b"new", "new.jpg")]}):
            form = PhotosForm(obj=row)
            assert not form.validate_on_submit()
            with pytest.raises(StoreError, match="'photos' is not saved"):
                form.photos.populate_obj(row, "photos")

        assert row.photos == ["old.jpg"]

    def test_are_stored_all_or_none(self, post, stored, caplog):
        destinations = iter(["photos", "photos", "../outside"])

        class HalfForm(FlaskForm):
            photos = MultipleStoreFileField(destination=lambda form: next(destinations))

        with post({"photos": [(b"1", "1.jpg"), (b"2", "2.jpg"), (b"3", "3.jpg")]}):
            form = HalfForm()
            assert not form.validate_on_submit()

        assert list(form.errors) == ["photos"]
        assert [upload.filename for upload in form.photos.data] == ["1.jpg", "2.jpg", "3.jpg"]
        assert stored() == {}

    def test_are_uploads_again_where_a_transaction_around_the_form_is_rolled_back(self, post, stored):
        with post({"title": "Sea", "photos": [(b"1", "1.jpg"), (b"2", "2.jpg")]}):
            form = PhotosForm(obj=SimpleNamespace(photos=["old.jpg"]))
            with pytest.raises(LookupError), Store().transaction():
                assert form.validate_on_submit()
                raise LookupError
            assert [upload.read() for upload in form.photos.data] == [b"1", b"2"]
            assert stored() == {}
            assert form.validate_on_submit()

        assert stored() == {"photos/1.jpg": b"1", "photos/2.jpg": b"2"}

    def test_are_stored_once_however_often_the_form_is_validated(self, post, stored):
        with post({"title": "Sea", "photos": [(b"1", "1.jpg"), (b"2", "2.jpg")]}):
            form = PhotosForm()
            assert form.validate_on_submit()
            before = form.photos.data
            assert form.validate_on_submit()

        assert form.photos.data == before
        assert stored() == {"photos/1.jpg": b"1", "photos/2.jpg": b"2"}

    def test_are_all_seen_by_every_validator_and_changed_by_none(self, post):
        seen = []

        def look(form, field):
            seen.append(list(field.data))

        rules = [
            FileRequired(),
            FileAllowed(["jpg"]),
            flask_store.forms.FileSize(9),
            FileCount(min=1, max=3),
            TotalSize(9),
            flask_wtf.file.FileRequired(),
            flask_wtf.file.FileAllowed(["jpg"]),
            flask_wtf.file.FileSize(9),
        ]
        form_class = rule_form(MultipleStoreFileField, [rule for each in rules for rule in (look, each)] + [look])
        with post({"title": "Sea", "photo": [(b"1", "1.jpg"), (b"2", "2.jpg")]}):
            form = form_class()
            uploads = list(form.photo.data)
            assert form.validate_on_submit()

        assert seen == [uploads] * (len(rules) + 1)

    def test_of_which_one_is_bad_are_refused_wherever_it_stands(self, post, stored):
        for names in (["a.php", "b.jpg", "c.jpg"], ["a.jpg", "b.php", "c.jpg"], ["a.jpg", "b.jpg", "c.php"]):
            for rule in (FileAllowed(["jpg"]), flask_wtf.file.FileAllowed(["jpg"])):
                with post({"title": "Sea", "photo": [(b"x", name) for name in names]}):
                    assert not rule_form(MultipleStoreFileField, [rule])().validate_on_submit()

        assert stored() == {}

    def test_of_which_one_is_refused_are_kept_but_for_that_one(self, visit, stored):
        form_class = rule_form(MultipleStoreFileField, [FileAllowed(["jpg"])])
        names = ["1.jpg", "2.jpg", "3.exe", "4.jpg", "5.jpg"]
        with visit({"title": "Sea", "photo": [(name.encode(), name) for name in names]}):
            form = form_class()
            assert not form.validate_on_submit()
            kept = form.photo.kept
        with visit({"title": "Sea", "photo": [*(each.token for each in kept), (b"3.jpg", "3.jpg")]}):
            again = form_class()
            assert again.validate_on_submit(), again.errors

        assert form.errors == {"photo": ["3.exe: Only these types of files are allowed: jpg."]}
        assert [each.filename for each in kept] == ["1.jpg", "2.jpg", "4.jpg", "5.jpg"]
        contents = [stored()[str(file)] for file in again.photo.data]
        assert contents == [b"1.jpg", b"2.jpg", b"4.jpg", b"5.jpg", b"3.jpg"]
        assert len(stored()) == 5

    def test_that_are_kept_can_be_removed_one_by_one(self, visit, stored):
        with visit({"title": "", "photos": [(b"1", "1.jpg"), (b"2", "2.jpg")]}):
            form = PhotosForm()
            assert not form.validate_on_submit()
            first, second = form.photos.kept
        with visit({"title": "", "photos": [first.token, second.token], "photos-clear": first.id}):
            form = PhotosForm()
            assert not form.validate_on_submit()
            assert form.photos.kept == [second]
        with visit({"title": "Sea", "photos": second.token}):
            form = PhotosForm()
            assert form.validate_on_submit()

        assert stored()[str(form.photos.data[0])] == b"2"

    def test_whose_token_comes_twice_are_stored_once(self, visit, keep, stored):
        [token] = keep(PhotosForm, "photos", [(b"1", "1.jpg")])
        with visit({"title": "Sea", "photos": [token, token]}):
            form = PhotosForm()
            assert form.validate_on_submit()

        assert list(stored()) == [str(file) for file in form.photos.data]

    def test_are_all_kept_where_their_number_or_their_total_is_wrong(self, visit):
        for rule in (FileCount(max=1), TotalSize(3)):
            with visit({"title": "Sea", "photo": [(b"11", "1.jpg"), (b"22", "2.jpg")]}):
                form = rule_form(MultipleStoreFileField, [rule])()
                assert not form.validate_on_submit()
                assert [kept.filename for kept in form.photo.kept] == ["1.jpg", "2.jpg"]

    def test_are_not_kept_where_a_validator_does_not_say_which_is_bad(self, visit):
        def refuse(form, field):
            raise ValidationError("One of them has a virus.")

        with visit({"title": "Sea", "photo": [(b"11", "1.jpg"), (b"22", "2.jpg")]}):
            form = rule_form(MultipleStoreFileField, [refuse])()
            assert not form.validate_on_submit()
            assert form.photo.kept == []

    @pytest.mark.parametrize(
        ("existing", "sent", "removed", "message"),
        [
            (2, 0, 0, None),
            (2, 1, 0, None),
            (2, 2, 0, "At most 3 files are allowed here."),
            (2, 2, 1, None),
            (2, 0, 1, "Please choose at least 2 files."),
            (3, 1, 0, "At most 3 files are allowed here."),
            (0, 1, 0, "Please choose at least 2 files."),
            (0, 3, 0, None),
        ],
    )
    def test_are_counted_as_they_will_be(self, existing, sent, removed, message, post):
        paths = [f"{number}.jpg" for number in range(existing)]
        uploads = [(b"new", f"new{number}.jpg") for number in range(sent)]
        with post({"title": "Sea", "photo": uploads, "photo-clear": paths[:removed]}):
            form = rule_form(MultipleStoreFileField, [FileCount(min=2, max=3)])(photo=paths)
            form.validate_on_submit()

        assert form.photo.errors == ([message] if message else [])

    def test_are_several_to_macro_libraries(self, app):
        with app.test_request_context():
            field = PhotosForm().photos

        assert field.type == "MultipleFileField"
        assert isinstance(field, FileField)

    def test_work_in_forms_and_lists_of_forms(self, post, stored):
        class AlbumForm(Form):
            photos = MultipleStoreFileField(destination="photos")

        class Outer(FlaskForm):
            album = FormField(AlbumForm)
            albums = FieldList(FormField(AlbumForm))
            lists = FieldList(MultipleStoreFileField())

        sent = {
            "album-photos": [(b"1", "1.jpg"), (b"2", "2.jpg")],
            "albums-0-photos": [(b"3", "3.jpg")],
            "albums-1-photos": [(b"4", "4.jpg"), (b"5", "5.jpg")],
            "lists-0": [(b"6", "6.jpg"), (b"7", "7.jpg")],
        }
        page = SimpleNamespace(
            album=SimpleNamespace(photos=["old.jpg"]),
            albums=[SimpleNamespace(photos=None), SimpleNamespace(photos=None)],
            lists=[],
        )
        with post(sent):
            form = Outer(obj=page)
            assert form.validate_on_submit(), form.errors
            form.populate_obj(page)

        assert page.album.photos == ["old.jpg", "photos/1.jpg", "photos/2.jpg"]
        assert [album.photos for album in page.albums] == [["photos/3.jpg"], ["photos/4.jpg", "photos/5.jpg"]]
        assert page.lists == [["6.jpg", "7.jpg"]]
        assert len(stored()) == 7

    def test_bound_without_a_form_are_left_alone(self, app, upload, stored):
        field = MultipleStoreFileField(destination="photos").bind(form=None, name="photos", _meta=DefaultMeta())
        field.process(
            CombinedMultiDict([MultiDict([("photos", upload(b"1", "1.jpg")), ("photos", upload(b"2", "2"))])])
        )
        field.post_process()

        assert field.validate(None)
        assert [each.filename for each in field.data] == ["1.jpg", "2"]
        assert stored() == {}
