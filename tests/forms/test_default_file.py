"""A picture that all users share is shown, and belongs to nobody's record."""

from __future__ import annotations

from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from flask_wtf import FlaskForm
from wtforms import FieldList, Form, FormField, StringField
from wtforms.validators import DataRequired

from flask_store import InvalidNameError, StoreFile, store_provider
from flask_store.forms import FileRequired, MultipleStoreFileField, StoreFileField

SHARED = "avatars/default.png"


class UserForm(FlaskForm):
    name = StringField(validators=[DataRequired()])
    photo = StoreFileField(destination="avatars", default_file=SHARED)


class StrictForm(FlaskForm):
    photo = StoreFileField(validators=[FileRequired()], default_file=SHARED)


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def inputs(self):
        return [(one["type"], one["name"]) for tag, one in self.found if tag == "input"]


@pytest.fixture
def shared(app, upload):
    """The shared picture, in the store."""
    file = store_provider()(destination="avatars").save(upload(b"nobody", "default.png"))
    assert str(file) == SHARED
    return file


@pytest.fixture(params=[None, "", SHARED, StoreFile], ids=["none", "empty", "path", "file"])
def user(request, shared):
    """A user without a picture of his own, as databases have it."""
    return SimpleNamespace(name="Ada", photo=shared if request.param is StoreFile else request.param)


class TestAUserWithoutAPicture:
    def test_is_shown_the_shared_one_and_no_way_to_remove_it(self, app, user):
        with app.test_request_context():
            form = UserForm(obj=user)
            tags = Tags(form.photo())

        assert tags.inputs() == [("file", "photo")]
        assert [one["href"] for tag, one in tags.found if tag == "a"] == [f"/uploads/{SHARED}"]
        assert [one["class"].split()[0] for tag, one in tags.found if tag == "span"] == ["store-file-default"]
        assert (form.photo.data, form.photo.existing, form.photo.files) == (None, None, [])
        assert str(form.photo.default_file) == SHARED

    def test_gets_one_and_the_shared_one_stays(self, post, user, shared):
        with post({"name": "Ada", "photo": (b"ada", "ada.png")}):
            form = UserForm(obj=user)
            assert form.validate_on_submit(), form.errors
            form.populate_obj(user)
            form.photo.delete_replaced()
            html = form.photo()

        assert form.photo.replaced == []
        assert user.photo == "avatars/ada.png"
        assert shared.exists()
        assert "store-file-default" not in html

    def test_cannot_remove_or_claim_the_shared_one(self, post, user, shared):
        before = user.photo
        with post({"name": "Ada", "photo-clear": SHARED, "photo-existing": SHARED}):
            form = UserForm(obj=user)
            assert form.validate_on_submit(), form.errors
            form.populate_obj(user)
            form.photo.delete_replaced()

        assert shared.exists()
        assert user.photo == before

    def test_has_chosen_nothing(self, post, user):
        with post({}):
            form = StrictForm(obj=user)
            assert not form.validate_on_submit()
            tags = Tags(form.photo())

        assert len(form.photo.errors) == 1
        assert [("required" in one) for tag, one in tags.found if tag == "input"] == [True]

    def test_sees_an_upload_that_is_kept_in_its_place(self, post, user):
        with post({"name": "", "photo": (b"ada", "ada.png")}):
            form = UserForm(obj=user)
            assert not form.validate_on_submit()
            html = form.photo()

        assert "store-file-kept" in html
        assert "store-file-default" not in html

    def test_leaves_no_trace_of_it_in_a_copy(self, post, user):
        copy = SimpleNamespace(photo=None)
        with post({"name": "Ada"}):
            form = UserForm(obj=user)
            assert form.validate_on_submit()
            form.populate_obj(copy)

        assert copy.photo is None


class TestAUserWithAPicture:
    def test_is_not_shown_the_shared_one(self, app, shared):
        with app.test_request_context():
            html = UserForm(obj=SimpleNamespace(name="Ada", photo="avatars/ada.png")).photo()

        assert SHARED not in html
        assert Tags(html).inputs() == [("hidden", "photo-existing"), ("checkbox", "photo-clear"), ("file", "photo")]

    def test_is_shown_the_shared_one_when_the_own_was_removed(self, post, shared):
        user = SimpleNamespace(name="Ada", photo="avatars/ada.png")
        with post({"name": "Ada", "photo-clear": "avatars/ada.png"}):
            form = UserForm(obj=user)
            assert form.validate_on_submit()
            form.populate_obj(user)
            html = form.photo()

        assert user.photo is None
        assert [str(file) for file in form.photo.replaced] == ["avatars/ada.png"]
        assert f"/uploads/{SHARED}" in html


def test_entries_of_a_list_that_have_it_have_no_file(post, shared):
    class Row(Form):
        photo = StoreFileField(default_file=SHARED)

    class Users(FlaskForm):
        rows = FieldList(FormField(Row))

    users = [SimpleNamespace(photo=SHARED), SimpleNamespace(photo="avatars/ada.png")]
    sent = {"rows-0-photo-existing": "", "rows-1-photo-existing": "avatars/ada.png", "rows-0-photo-clear": SHARED}
    with post(sent):
        form = Users(obj=SimpleNamespace(rows=users))
        tags = Tags("".join(entry.form.photo() for entry in form.rows))
        assert form.validate_on_submit(), form.errors
        form.populate_obj(SimpleNamespace(rows=users))

    assert [user.photo for user in users] == [SHARED, "avatars/ada.png"]
    hidden = [one["value"] for tag, one in tags.found if one.get("type") == "hidden"]
    assert hidden == ["", "avatars/ada.png"]


def test_a_file_does_as_well_as_its_path(app, shared):
    class OwnForm(FlaskForm):
        photo = StoreFileField(default_file=shared)

    with app.test_request_context():
        assert OwnForm().photo.default_file == shared
        assert f"/uploads/{SHARED}" in OwnForm().photo()


def test_a_wrong_path_is_a_mistake_of_the_developer(app):
    class WrongForm(FlaskForm):
        photo = StoreFileField(default_file="../default.png")

    with app.test_request_context(), pytest.raises(InvalidNameError):
        WrongForm()


def test_a_field_for_several_files_has_none(app):
    class SeveralForm(FlaskForm):
        photos = MultipleStoreFileField(default_file=SHARED)

    with app.test_request_context(), pytest.raises(TypeError, match="default_file"):
        SeveralForm()


def test_without_one_nothing_is_shown(app):
    class PlainForm(FlaskForm):
        photo = StoreFileField()

    with app.test_request_context():
        assert PlainForm().photo.default_file is None
        assert PlainForm().photo() == '<input data-store-file id="photo" name="photo" type="file">'
