"""The field among the libraries that it lives with: their validators, macros and form makers."""

from __future__ import annotations

import html
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import flask_wtf.file
import pytest
import wtforms.validators
from flask import render_template_string, request
from flask_bootstrap import Bootstrap4, Bootstrap5
from flask_sqlalchemy import SQLAlchemy
from flask_wtf import FlaskForm
from sqlalchemy.exc import IntegrityError
from werkzeug.datastructures import MultiDict
from werkzeug.serving import make_server
from wtforms import Form, StringField
from wtforms.validators import DataRequired

from flask_store import Store, StoreFile
from flask_store.forms import FileAllowed, FileRequired, MultipleStoreFileField, StoreFileField
from flask_store.sqla import StoreFileType

REQUIRED = ["This field is required."]


def form_with(*validators):
    return type("RuleForm", (Form,), {"photo": StoreFileField(validators=validators)})


def errors(form):
    form.photo.validate(form)
    return form.photo.errors


@pytest.fixture
def new(upload):
    return MultiDict({"photo": upload(b"12345", "new.jpg")})


@pytest.fixture
def nothing(upload):
    """What a browser sends where no file was chosen."""
    return MultiDict({"photo": upload(b"", "")})


@pytest.fixture
def row(app):
    return SimpleNamespace(photo="photos/old.jpg")


class TestTheValidatorsOfFlaskWTF:
    def test_required_asks_for_a_new_upload_every_time(self, new, nothing, row):
        form_class = form_with(flask_wtf.file.FileRequired())

        assert errors(form_class(new)) == []
        assert errors(form_class(new, obj=row)) == []
        assert errors(form_class(nothing)) == REQUIRED
        assert errors(form_class(nothing, obj=row)) == REQUIRED

    def test_allowed_judges_the_upload_and_not_the_existing_file(self, new, nothing, row):
        assert errors(form_with(flask_wtf.file.FileAllowed(["jpg"]))(new)) == []
        assert len(errors(form_with(flask_wtf.file.FileAllowed(["png"]))(new))) == 1
        assert errors(form_with(flask_wtf.file.FileAllowed(["png"]))(nothing, obj=row)) == []

    def test_size_judges_the_upload_and_not_the_existing_file(self, new, nothing, row):
        assert errors(form_with(flask_wtf.file.FileSize(5, 5))(new)) == []
        assert len(errors(form_with(flask_wtf.file.FileSize(4))(new))) == 1
        assert len(errors(form_with(flask_wtf.file.FileSize(9, 6))(new))) == 1
        assert errors(form_with(flask_wtf.file.FileSize(9, 6))(nothing, obj=row)) == []

    def test_all_judge_the_upload_the_second_time_too(self, new, stored):
        rules = flask_wtf.file.FileRequired(), flask_wtf.file.FileAllowed(["jpg"]), flask_wtf.file.FileSize(5, 5)
        form = form_with(*rules)(new)

        assert form.validate()
        assert form.validate()
        assert stored() == {"new.jpg": b"12345"}


class TestTheValidatorsOfWTForms:
    @pytest.mark.parametrize("rule", [wtforms.validators.InputRequired(), wtforms.validators.DataRequired()])
    def test_required_takes_a_new_file_and_the_existing_one(self, rule, new, nothing, row, upload):
        form_class = form_with(rule)

        assert errors(form_class(new)) == []
        assert errors(form_class(MultiDict({"photo": upload(b"", "empty.jpg")}))) == []
        assert errors(form_class(nothing, obj=row)) == []
        assert errors(form_class(nothing)) == REQUIRED
        assert errors(form_class(MultiDict({"photo": "text.jpg"}))) == REQUIRED

    def test_optional_has_the_other_rules_judge_what_was_sent(self, new, nothing, row):
        form_class = form_with(wtforms.validators.Optional(), FileAllowed(["png"]))

        assert len(errors(form_class(new))) == 1
        assert errors(form_class(nothing)) == []
        assert errors(form_class(nothing, obj=row)) == []

    def test_optional_lets_the_form_store_what_was_sent(self, new, stored):
        assert form_with(wtforms.validators.Optional())(new).validate()

        assert stored() == {"new.jpg": b"12345"}

    def test_optional_ends_the_rules_where_nothing_was_sent(self, nothing):
        assert errors(form_with(wtforms.validators.Optional(), FileRequired())(nothing)) == []

    @pytest.mark.parametrize("formdata", [None, MultiDict({"title": "Sea"})], ids=["no form data", "other form data"])
    def test_optional_has_the_other_rules_judge_what_the_application_gave(self, formdata, upload, stored):
        form_class = form_with(wtforms.validators.Optional(), FileAllowed(["jpg"]))

        assert not form_class(formdata, data={"photo": upload(b"<?php", "shell.php")}).validate()
        assert stored() == {}


class TestBootstrapFlask:
    class PhotoForm(FlaskForm):
        photo = StoreFileField(validators=[FileRequired(), FileAllowed(["jpg"])])

    class PhotosForm(FlaskForm):
        title = StringField("Title", validators=[DataRequired()])
        photos = MultipleStoreFileField("Photos", validators=[FileAllowed(["jpg"])], description="All of them.")

    @pytest.fixture(params=[(Bootstrap4, "bootstrap4"), (Bootstrap5, "bootstrap5")], ids=["Bootstrap4", "Bootstrap5"])
    def render(self, request, app):
        """Return a function that renders a template with the macros of a version of Bootstrap."""
        extension, directory = request.param
        app.config["BOOTSTRAP_SERVE_LOCAL"] = True
        extension(app)
        start = f'{{% from "{directory}/form.html" import render_form, render_field %}}{{{{ bootstrap.load_css() }}}}'
        return lambda template, **values: render_template_string(start + template, **values)

    @pytest.fixture
    def render_form(self, render):
        return lambda form, **options: render("{{ render_form(form, **options) }}", form=form, options=options)

    @pytest.fixture
    def show(self, app, browser):
        """Return a function that shows a page, with its style sheets."""
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        page = browser.new_page()

        def show(text):
            address = f"http://127.0.0.1:{server.server_port}/"
            head, body = "<title>Form</title>", f'<main class="container">{text}</main>'
            document = f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'
            page.route(address, lambda route: route.fulfill(body=document, content_type="text/html"))
            page.goto(address)
            return page

        yield show
        page.close()
        server.shutdown()
        thread.join()
        server.server_close()

    def test_makes_a_form_that_can_send_files(self, render_form, app):
        with app.test_request_context():
            html = render_form(self.PhotoForm())

        assert 'enctype="multipart/form-data"' in re.search("<form[^>]*>", html)[0]
        assert " required" in re.search("<input[^>]*>", html)[0]
        assert 'accept=".jpg"' in html

    def test_requires_no_file_where_there_is_one(self, render_form, row, app):
        with app.test_request_context():
            html = render_form(self.PhotoForm(obj=row))

        assert " required" not in re.search("<input[^>]*>", html)[0]
        assert 'href="/uploads/photos/old.jpg"' in html

    def test_shows_the_error_at_the_field(self, render_form, post):
        with post({"photo": (b"<?php", "shell.php")}):
            form = self.PhotoForm()
            form.validate_on_submit()
            html = render_form(form)

        assert "Only these types of files are allowed: jpg." in html

    @pytest.mark.parametrize("form_type", ["basic", "horizontal", "inline"])
    def test_shows_kept_and_existing_files_with_the_errors(self, form_type, render_form, post):
        sent = {"title": "", "photos": [(b"1", "1.jpg"), (b"2", "2.exe"), (b"3", "3.jpg")], "photos-clear": "b.jpg"}
        with post(sent):
            form = self.PhotosForm(obj=SimpleNamespace(photos=["a.jpg", "b.jpg"]))
            assert not form.validate_on_submit()
            text = render_form(form, form_type=form_type)

        assert text.count(REQUIRED[0]) == (0 if form_type == "inline" else 1)
        assert text.count("2.exe: Only these types of files are allowed: jpg.") == (0 if form_type == "inline" else 1)
        assert text.count("is-invalid") == 2
        assert [text.count(f"Kept: {name}.jpg, 1 Byte") for name in "13"] == [1, 1]
        assert [text.count(f'href="/uploads/{name}.jpg"') for name in "ab"] == [1, 1]
        assert text.count('name="photos-clear"') == 4
        assert 'enctype="multipart/form-data"' in re.search("<form[^>]*>", text)[0]

    def test_renders_a_field_by_itself(self, render, post):
        with post({"title": "", "photos": [(b"1", "1.jpg"), (b"2", "2.exe")]}):
            form = self.PhotosForm()
            assert not form.validate_on_submit()
            text = render('{{ render_field(form.photos, class="photos") }}', form=form)

        assert "Kept: 1.jpg, 1 Byte" in text
        assert "2.exe: Only these types of files are allowed: jpg." in text
        assert 'class="form-control is-invalid photos"' in text or 'class="form-control-file is-invalid photos"' in text

    @pytest.mark.browser
    @pytest.mark.parametrize("form_type", ["basic", "horizontal"])
    def test_shows_each_file_on_a_line_of_its_own_and_every_error(self, form_type, render_form, post, show):
        with post({"title": "", "photos": [(b"1", "1.jpg"), (b"2", "2.exe"), (b"3", "3.jpg")]}):
            form = self.PhotosForm(obj=SimpleNamespace(photos=["a.jpg", f"{'long' * 50}.jpg"]))
            assert not form.validate_on_submit()
            page = show(render_form(form, form_type=form_type))

        for error in form.title.errors + form.photos.errors:
            assert page.get_by_text(error).is_visible()
        for name in ("Kept: 1.jpg", "Kept: 3.jpg", "a.jpg"):
            assert page.get_by_text(name).is_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        places = [page.get_by_text("Photos", exact=True)]
        places += page.locator(".store-file-existing, .store-file-kept").all() + [page.locator("input[type=file]")]
        boxes = [place.bounding_box() for place in places]
        assert len(boxes) == 6
        if form_type == "horizontal":
            boxes.pop(0)  # the label is at the side, where there is room for it
        for above, below in zip(boxes, boxes[1:], strict=False):
            assert above["y"] + above["height"] <= below["y"] + 1

    @pytest.mark.browser
    def test_has_names_for_every_control_and_no_id_twice(self, render_form, post, show):
        with post({"title": "", "photos": [(b"1", "1.jpg"), (b"3", "3.jpg")]}):
            form = self.PhotosForm(obj=SimpleNamespace(photos=["a.jpg", "b.jpg"]))
            assert not form.validate_on_submit()
            page = show(render_form(form))

        ids = page.eval_on_selector_all("[id]", "found => found.map(one => one.id)")
        assert len(ids) == len(set(ids))
        assert page.eval_on_selector_all("label", "found => found.filter(one => !one.control).length") == 0
        for name in ("a.jpg", "b.jpg", "1.jpg", "3.jpg"):
            page.get_by_role("checkbox", name=f"Remove {name}").check()
        assert page.get_by_label("Photos").get_attribute("type") == "file"


@pytest.fixture
def database(make_app):
    """An application with tables of photographs and of albums in memory."""
    app = make_app(SQLALCHEMY_DATABASE_URI="sqlite://")
    db = SQLAlchemy(app)

    # Flask-Admin would see by itself that a title is taken; of this rule the database alone knows.
    rule = "title <> 'Forbidden'"

    class Photo(db.Model):
        __table_args__ = (db.CheckConstraint(rule),)
        id = db.Column(db.Integer, primary_key=True)
        title = db.Column(db.String(100), nullable=False, unique=True)
        photo = db.Column(StoreFileType, nullable=False)

    class Album(db.Model):
        __table_args__ = (db.CheckConstraint(rule),)
        id = db.Column(db.Integer, primary_key=True)
        title = db.Column(db.String(100), nullable=False, unique=True)
        cover = db.Column(StoreFileType)
        photos = db.Column(db.JSON, nullable=False, default=list)

    with app.app_context():
        db.create_all()
        yield SimpleNamespace(app=app, db=db, Photo=Photo, Album=Album)
        db.session.remove()
        db.engine.dispose()


def add(database, form_class, title, upload):
    with database.app.test_request_context(method="POST", data={"title": title, "photo": upload}):
        form = form_class()
        with Store().transaction():
            assert form.validate_on_submit(), form.errors
            row = database.Photo()
            form.populate_obj(row)
            database.db.session.add(row)
            database.db.session.commit()
    return row


def test_a_commit_that_fails_in_a_transaction_around_the_form_takes_back_the_file(database, upload):
    class PhotoForm(FlaskForm):
        title = StringField()
        photo = StoreFileField()

    first = add(database, PhotoForm, "Sea", upload(b"waves", "sea.jpg"))
    with pytest.raises(IntegrityError):
        add(database, PhotoForm, "Sea", upload(b"storm", "storm.jpg"))

    database.db.session.rollback()
    assert list(Store().Provider().list()) == [first.photo]


class TestWTFormsSQLAlchemy:
    @pytest.fixture
    def form_class(self, database):
        orm = pytest.importorskip("wtforms_sqlalchemy.orm")

        class PhotoForm(orm.model_form(database.Photo, database.db.session, base_class=FlaskForm, only=["title"])):
            photo = StoreFileField(validators=[FileRequired()], destination="photos")

        return PhotoForm

    def test_a_row_keeps_the_path_and_gives_the_file(self, database, form_class, upload):
        row = add(database, form_class, "Sea", upload(b"waves", "sea.jpg"))
        database.db.session.expire(row)

        assert row.photo == StoreFile("sea.jpg", "photos")
        with row.photo.open() as file:
            assert file.read() == b"waves"

    def test_an_edit_without_a_file_keeps_it(self, database, form_class, upload):
        row = add(database, form_class, "Sea", upload(b"waves", "sea.jpg"))
        with database.app.test_request_context(method="POST", data={"title": "Lake"}):
            form = form_class(obj=row)
            assert form.validate_on_submit(), form.errors
            form.populate_obj(row)
            database.db.session.commit()

        assert row.title == "Lake"
        assert row.photo == StoreFile("sea.jpg", "photos")


class NotCommitted(Exception):
    """Takes back what a transaction has stored."""


def storing_view(admin_sqla, store):
    """Return a Flask-Admin view whose files are stored with their records, or not at all: the recipe of the README."""

    class StoringView(admin_sqla.ModelView):
        def validate_form(self, form):
            # The class's validate judges; the form's own would store as well, before there is a record.
            return request.method == "POST" and type(form).validate(form)

        def create_model(self, form):
            return self.commit(form, super().create_model, form)

        def update_model(self, form, model):
            return self.commit(form, super().update_model, form, model)

        def commit(self, form, save, *args):
            try:
                with store.transaction():
                    saved = form.validate() and save(*args)
                    if not saved:
                        raise NotCommitted
            except NotCommitted:
                return False
            for field in form:
                if isinstance(field, StoreFileField | MultipleStoreFileField):
                    field.delete_replaced()
            return saved

    return StoringView


def hidden_inputs(page):
    """Return the values of the hidden inputs of a page, by name."""
    found = {}
    for tag in re.findall('<input[^>]*type="hidden"[^>]*>', page):
        name, value = (re.search(f'{attribute}="([^"]*)"', tag) for attribute in ("name", "value"))
        found.setdefault(html.unescape(name[1]), []).append(html.unescape(value[1]))
    return found


class TestFlaskAdmin:
    @pytest.fixture(params=["form_overrides", "form_extra_fields"])
    def how(self, request):
        """How the view gets its fields."""
        return request.param

    @pytest.fixture
    def client(self, database, how):
        admin = pytest.importorskip("flask_admin")
        sqla = pytest.importorskip("flask_admin.contrib.sqla")
        # Flask-Admin takes its translations from Flask-Babel if that is installed.
        pytest.importorskip("flask_babel").Babel(database.app)
        StoringView = storing_view(sqla, Store())
        rules = [FileAllowed(["jpg"])]

        class PhotoView(StoringView):
            if how == "form_overrides":
                form_overrides = {"photo": StoreFileField}
                form_args = {"photo": {"destination": "photos", "validators": rules}}
            else:
                form_extra_fields = {"photo": StoreFileField("Photo", [FileRequired(), *rules], destination="photos")}

        class AlbumView(StoringView):
            if how == "form_overrides":
                form_overrides = {"cover": StoreFileField, "photos": MultipleStoreFileField}
                form_args = {"cover": {"destination": "covers"}, "photos": {"destination": "photos"}}
            else:
                form_extra_fields = {
                    "cover": StoreFileField("Cover", destination="covers"),
                    "photos": MultipleStoreFileField("Photos", destination="photos"),
                }

        views = admin.Admin(database.app)
        views.add_view(PhotoView(database.Photo, database.db))
        views.add_view(AlbumView(database.Album, database.db))
        return database.app.test_client()

    @pytest.fixture
    def one(self, database):
        """Return a function that returns the only record of a table, as it is now in the database."""

        def one(table):
            database.db.session.expire_all()
            return database.db.session.scalars(database.db.select(table)).one()

        return one

    @pytest.fixture
    def files(self, database):
        """Return a function that tells the bytes of each file on the disk, kept ones included, by name."""
        root = Path(database.app.instance_path) / "uploads"
        return lambda: {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def test_adds_a_record_with_a_file(self, client, database, upload, one, files):
        response = client.post("/admin/photo/new/", data={"title": "Sea", "photo": upload(b"waves", "sea.jpg")})

        assert response.status_code == 302
        assert one(database.Photo).photo == StoreFile("sea.jpg", "photos")
        assert files() == {"photos/sea.jpg": b"waves"}

    def test_edits_a_record_and_keeps_its_file(self, client, database, upload, one, files):
        client.post("/admin/photo/new/", data={"title": "Sea", "photo": upload(b"waves", "sea.jpg")})
        page = client.get("/admin/photo/edit/?id=1").text
        client.post("/admin/photo/edit/?id=1", data={"title": "Lake", "photo": upload(b"", "")})

        assert 'href="/uploads/photos/sea.jpg"' in page
        assert " required" not in re.search('<input[^>]*type="file"[^>]*>', page)[0]
        record = one(database.Photo)
        assert (record.title, str(record.photo)) == ("Lake", "photos/sea.jpg")
        assert files() == {"photos/sea.jpg": b"waves"}

    def test_replaces_the_file_of_a_record_and_deletes_the_old_one(self, client, database, upload, one, files):
        client.post("/admin/photo/new/", data={"title": "Sea", "photo": upload(b"waves", "sea.jpg")})
        client.post("/admin/photo/edit/?id=1", data={"title": "Sea", "photo": upload(b"calm", "lake.jpg")})

        assert str(one(database.Photo).photo) == "photos/lake.jpg"
        assert files() == {"photos/lake.jpg": b"calm"}

    def test_removes_the_file_of_a_record_that_may_be_without(self, client, database, upload, one, files):
        client.post("/admin/album/new/", data={"title": "Sea", "cover": upload(b"waves", "sea.jpg")})
        page = client.get("/admin/album/edit/?id=1").text
        client.post("/admin/album/edit/?id=1", data={"title": "Sea", "cover-clear": "covers/sea.jpg"})

        assert 'name="cover-clear" type="checkbox" value="covers/sea.jpg"' in page
        assert one(database.Album).cover is None
        assert files() == {}

    def test_has_no_checkbox_where_a_record_must_have_a_file(self, client, upload):
        client.post("/admin/photo/new/", data={"title": "Sea", "photo": upload(b"waves", "sea.jpg")})

        assert "photo-clear" not in client.get("/admin/photo/edit/?id=1").text

    def test_adds_and_removes_some_of_several_files(self, client, database, upload, one, files):
        sent = [upload(b"1", "1.jpg"), upload(b"2", "2.jpg")]
        client.post("/admin/album/new/", data={"title": "Sea", "photos": sent})
        before = one(database.Album).photos
        sent = {"photos": [upload(b"3", "3.jpg")], "photos-clear": "photos/1.jpg"}
        client.post("/admin/album/edit/?id=1", data={"title": "Sea", **sent})

        assert before == ["photos/1.jpg", "photos/2.jpg"]
        assert one(database.Album).photos == ["photos/2.jpg", "photos/3.jpg"]
        assert files() == {"photos/2.jpg": b"2", "photos/3.jpg": b"3"}

    def test_stores_nothing_that_its_form_refuses(self, client, upload, files):
        page = client.post("/admin/photo/new/", data={"title": "Sea", "photo": upload(b"<?php", "shell.php")}).text

        assert "Only these types of files are allowed: jpg." in page
        assert files() == {}

    def test_keeps_an_upload_for_the_next_try(self, client, database, upload, one, files):
        page = client.post("/admin/photo/new/", data={"title": "", "photo": upload(b"waves", "sea.jpg")}).text
        [token] = hidden_inputs(page)["photo"]
        # Its token comes before the empty file: Flask-Admin has the texts of a form first.
        client.post("/admin/photo/new/", data={"title": "Sea", "photo": [token, upload(b"", "")]})

        assert "Kept: sea.jpg, 5 Bytes" in page
        assert one(database.Photo).photo.size == 5
        assert files() == {str(one(database.Photo).photo): b"waves"}

    def test_takes_a_new_file_in_place_of_a_kept_one(self, client, database, upload, one, files):
        page = client.post("/admin/photo/new/", data={"title": "", "photo": upload(b"waves", "sea.jpg")}).text
        [token] = hidden_inputs(page)["photo"]
        client.post("/admin/photo/new/", data={"title": "Sea", "photo": [token, upload(b"calm", "lake.jpg")]})

        assert files()[str(one(database.Photo).photo)] == b"calm"

    def test_keeps_an_upload_of_an_edit_beside_the_file_of_the_record(self, client, database, upload, one, files):
        client.post("/admin/photo/new/", data={"title": "Sea", "photo": upload(b"waves", "sea.jpg")})
        edit = "/admin/photo/edit/?id=1"
        page = client.post(edit, data={"title": "", "photo": upload(b"calm", "lake.jpg")}).text
        [token] = hidden_inputs(page)["photo"]
        client.post(edit, data={"title": "Lake", "photo": [token, upload(b"", "")]})

        assert 'href="/uploads/photos/sea.jpg"' in page
        assert "Kept: lake.jpg, 4 Bytes" in page
        assert files() == {str(one(database.Photo).photo): b"calm"}

    def test_stores_nothing_for_a_record_that_cannot_be_committed_and_keeps_the_upload(
        self, client, database, upload, one, files
    ):
        page = client.post("/admin/photo/new/", data={"title": "Forbidden", "photo": upload(b"calm", "lake.jpg")}).text
        kept = list(files())
        [token] = hidden_inputs(page)["photo"]
        response = client.post("/admin/photo/new/", data={"title": "Lake", "photo": [token, upload(b"", "")]})

        assert "CHECK constraint failed" in page
        assert [name.partition("/")[0] for name in kept] == [".kept"]
        assert "Kept: lake.jpg, 4 Bytes" in page
        assert response.status_code == 302
        assert files() == {str(one(database.Photo).photo): b"calm"}

    def test_keeps_a_kept_upload_when_its_record_cannot_be_committed(self, client, database, upload, one, files):
        page = client.post("/admin/photo/new/", data={"title": "", "photo": upload(b"calm", "lake.jpg")}).text
        [token] = hidden_inputs(page)["photo"]
        page = client.post("/admin/photo/new/", data={"title": "Forbidden", "photo": [token, upload(b"", "")]}).text
        [again] = hidden_inputs(page)["photo"]
        client.post("/admin/photo/new/", data={"title": "Lake", "photo": [again, upload(b"", "")]})

        assert again == token
        assert files() == {str(one(database.Photo).photo): b"calm"}

    def test_keeps_the_old_file_of_a_change_that_cannot_be_committed(self, client, database, upload, one, files):
        client.post("/admin/photo/new/", data={"title": "Sea", "photo": upload(b"waves", "sea.jpg")})
        edit = "/admin/photo/edit/?id=1"
        page = client.post(edit, data={"title": "Forbidden", "photo": upload(b"new", "new.jpg")}).text

        stored = {name: content for name, content in files().items() if not name.startswith(".kept/")}
        assert stored == {"photos/sea.jpg": b"waves"}
        assert str(one(database.Photo).photo) == "photos/sea.jpg"
        assert "Kept: new.jpg, 3 Bytes" in page
        assert 'href="/uploads/photos/sea.jpg"' in page

    def test_keeps_what_is_to_be_removed_where_the_change_cannot_be_committed(
        self, client, database, upload, one, files
    ):
        client.post("/admin/album/new/", data={"title": "Lake", "cover": upload(b"calm", "lake.jpg")})
        edit = "/admin/album/edit/?id=1"
        page = client.post(edit, data={"title": "Forbidden", "cover-clear": "covers/lake.jpg"}).text

        assert files() == {"covers/lake.jpg": b"calm"}
        assert str(one(database.Album).cover) == "covers/lake.jpg"
        assert 'aria-label="Remove lake.jpg" checked name="cover-clear" type="checkbox" value="covers/lake.jpg"' in page

    def test_keeps_nothing_from_a_form_that_somebody_else_made(self, client, database, upload, one):
        page = client.post("/admin/photo/new/", data={"title": "", "photo": upload(b"waves", "sea.jpg")}).text
        [token] = hidden_inputs(page)["photo"]
        other = database.app.test_client()
        page = other.post("/admin/photo/new/", data={"title": "Sea", "photo": [token, upload(b"", "")]}).text

        assert "The file that was kept is no longer there. Please choose it again." in page
        assert database.db.session.scalars(database.db.select(database.Photo)).all() == []
