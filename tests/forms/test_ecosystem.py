"""The field among the libraries that it lives with: their validators, macros and form makers."""

from __future__ import annotations

import re
from types import SimpleNamespace

import flask_wtf.file
import pytest
import wtforms.validators
from flask import render_template_string
from flask_bootstrap import Bootstrap4, Bootstrap5
from flask_sqlalchemy import SQLAlchemy
from flask_wtf import FlaskForm
from sqlalchemy.exc import IntegrityError
from werkzeug.datastructures import MultiDict
from wtforms import Form, StringField

from flask_store import Store, StoreFile
from flask_store.forms import FileAllowed, FileRequired, StoreFileField
from flask_store.sqla import StoreFileType
from flask_store.stores.local import LocalStore

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

    @pytest.fixture(params=[(Bootstrap4, "bootstrap4"), (Bootstrap5, "bootstrap5")], ids=["Bootstrap4", "Bootstrap5"])
    def render_form(self, request, app):
        extension, directory = request.param
        extension(app)
        template = f'{{% from "{directory}/form.html" import render_form %}}{{{{ render_form(form) }}}}'
        return lambda form: render_template_string(template, form=form)

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


@pytest.fixture
def database(make_app):
    """An application with a table of photographs in memory."""
    app = make_app(SQLALCHEMY_DATABASE_URI="sqlite://")
    db = SQLAlchemy(app)

    class Photo(db.Model):
        id = db.Column(db.Integer, primary_key=True)
        title = db.Column(db.String(100), nullable=False, unique=True)
        photo = db.Column(StoreFileType, nullable=False)

    with app.app_context():
        db.create_all()
        yield SimpleNamespace(app=app, db=db, Photo=Photo)
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


class TestFlaskAdmin:
    @pytest.fixture
    def client(self, database):
        admin = pytest.importorskip("flask_admin")
        sqla = pytest.importorskip("flask_admin.contrib.sqla")

        class PhotoView(sqla.ModelView):
            form_overrides = {"photo": StoreFileField}
            form_args = {"photo": {"destination": "photos", "validators": [FileAllowed(["jpg"])]}}

        admin.Admin(database.app).add_view(PhotoView(database.Photo, database.db))
        return database.app.test_client()

    def test_adds_a_row_with_a_file(self, client, database, upload):
        client.post("/admin/photo/new/", data={"title": "Sea", "photo": upload(b"waves", "sea.jpg")})

        row = database.db.session.scalars(database.db.select(database.Photo)).one()
        assert row.photo == StoreFile("sea.jpg", "photos")
        assert row.photo.size == 5

    def test_edits_a_row_and_keeps_or_replaces_its_file(self, client, database, upload):
        row = database.Photo(title="Sea", photo=LocalStore().save(upload(b"waves", "sea.jpg")))
        database.db.session.add(row)
        database.db.session.commit()
        edit = f"/admin/photo/edit/?id={row.id}"

        page = client.get(edit).text
        assert 'href="/uploads/sea.jpg"' in page
        assert " required" not in re.search('<input[^>]*type="file"[^>]*>', page)[0]

        client.post(edit, data={"title": "Lake", "photo": upload(b"", "")})
        database.db.session.expire_all()
        assert (row.title, str(row.photo)) == ("Lake", "sea.jpg")

        client.post(edit, data={"title": "Lake", "photo": upload(b"calm", "lake.jpg")})
        database.db.session.expire_all()
        assert str(row.photo) == "photos/lake.jpg"

    def test_stores_nothing_that_its_form_refuses(self, client, upload):
        page = client.post("/admin/photo/new/", data={"title": "Sea", "photo": upload(b"<?php", "shell.php")}).text

        assert "Only these types of files are allowed: jpg." in page
        assert list(Store().Provider().list()) == []
