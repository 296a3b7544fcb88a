from __future__ import annotations

import logging
import os
from types import SimpleNamespace

import flask_wtf.file
import pytest
from flask import request
from flask_wtf import FlaskForm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import CombinedMultiDict, FileStorage, MultiDict
from wtforms import FieldList, FileField, Form, FormField, StringField
from wtforms.meta import DefaultMeta
from wtforms.validators import DataRequired

import flask_store.forms
from flask_store import StoreError, StoreFile
from flask_store.forms import StoreFileField


class PhotoForm(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photo = StoreFileField(destination="photos")


class PlainPhotoForm(Form):
    photo = StoreFileField(destination="photos")


@pytest.fixture
def row():
    """A row whose photo is kept as a relative path."""
    return SimpleNamespace(title="Sea", photo="photos/old.jpg")


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
        assert field.data.stream is sent.stream
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

        assert stored() == {"photos/file": b"waves"}

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
