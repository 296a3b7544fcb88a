from __future__ import annotations

from types import SimpleNamespace

import pytest
import s3_servers
from flask_wtf import FlaskForm
from wtforms import StringField
from wtforms.validators import DataRequired, InputRequired

from flask_store import Provider, StoreFile
from flask_store.forms import FileAllowed, FileRequired, StoreFileField


class PhotoForm(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photo = StoreFileField(validators=[FileRequired(), FileAllowed(["jpg", ".PNG"])])


@pytest.fixture
def get(app):
    """A GET request."""
    with app.test_request_context():
        yield


@pytest.mark.usefixtures("get")
class TestWithoutAnExistingFile:
    def test_the_input_is_a_file_input_with_the_rules_of_the_validators(self):
        assert PhotoForm().photo() == (
            '<input accept=".jpg,.png" data-accept-message="Only these types of files are allowed: jpg, png." '
            'data-store-file id="photo" name="photo" required type="file">'
        )

    def test_a_field_without_validators_has_no_rules(self):
        class FreeForm(FlaskForm):
            photo = StoreFileField()

        assert FreeForm().photo() == '<input data-store-file id="photo" name="photo" type="file">'

    def test_a_macro_may_say_that_it_is_not_required(self):
        assert " required" not in PhotoForm().photo(required=False)


class TestWithAnExistingFile:
    def test_the_input_follows_a_link_to_the_file(self, get):
        row = SimpleNamespace(photo="photos/sea.jpg")

        assert PhotoForm(obj=row).photo() == (
            '<span class="store-file-existing"><a class="store-file" href="/uploads/photos/sea.jpg">sea.jpg</a></span> '
            '<input accept=".jpg,.png" data-accept-message="Only these types of files are allowed: jpg, png." '
            'data-store-file id="photo" name="photo" type="file">'
        )

    def test_a_file_on_its_way_is_named_and_not_linked(self, make_app, upload):
        # Nothing takes connections there.
        server = s3_servers.S3Server("none", "http://127.0.0.1:9", "key", "secret").settings("album")
        settings = {**server, "STORE_PROVIDER": "flask_store.stores.s3.S3GeventStore", "STORE_DRAIN_TIMEOUT": 0}
        with make_app(**settings).test_request_context():
            saved = Provider().save(upload(filename="<sea>.jpg"))
            html = PhotoForm(obj=SimpleNamespace(photo=saved)).photo()
            saved.delete()

        assert html.startswith(
            f'<span class="store-file-existing"><span class="store-file">{saved.filename}</span></span> <input '
        )

    def test_the_link_is_escaped(self, get):
        row = SimpleNamespace(photo="a & 'b' 100%.jpg")
        html = PhotoForm(obj=row).photo()

        assert 'href="/uploads/a%20%26%20%27b%27%20100%25.jpg"' in html
        assert ">a &amp; &#39;b&#39; 100%.jpg</a>" in html

    def test_the_link_has_the_domain_of_the_store(self, make_app):
        with make_app(STORE_DOMAIN="https://cdn.example.com").test_request_context():
            html = PhotoForm(obj=SimpleNamespace(photo="sea.jpg")).photo()

        assert 'href="https://cdn.example.com/uploads/sea.jpg"' in html

    @pytest.mark.parametrize("kwargs", [{}, {"required": True}, {"required": "required"}])
    def test_the_input_is_not_required_even_if_a_macro_says_so(self, kwargs, get):
        html = PhotoForm(obj=SimpleNamespace(photo="sea.jpg")).photo(class_="form-control", **kwargs)

        assert " required" not in html
        assert 'class="form-control"' in html

    @pytest.mark.parametrize("validator", [DataRequired(), InputRequired()])
    def test_the_input_is_not_required_by_the_validators_of_wtforms_either(self, validator, get):
        class StrictForm(FlaskForm):
            photo = StoreFileField(validators=[validator], render_kw={"required": True})

        assert " required" in StrictForm().photo()
        assert " required" not in StrictForm(obj=SimpleNamespace(photo="sea.jpg")).photo()

    def test_a_failed_submission_links_to_the_existing_file_and_not_to_the_new_one(self, post):
        with post({"title": "", "photo": (b"new", "new.jpg")}):
            form = PhotoForm(obj=SimpleNamespace(photo=StoreFile("old.jpg")))
            assert not form.validate_on_submit()
            html = form.photo()

        assert ">old.jpg</a>" in html
        assert "new.jpg</a>" not in html

    def test_a_successful_submission_can_still_be_shown(self, post):
        with post({"title": "Sea", "photo": (b"new", "new.jpg")}):
            form = PhotoForm(obj=SimpleNamespace(photo="old.jpg"))
            assert form.validate_on_submit()

            assert ">old.jpg</a>" in form.photo()


def test_a_failed_submission_without_an_upload_can_be_shown(post):
    with post({"title": ""}):
        form = PhotoForm()
        assert not form.validate_on_submit()
        html = form.photo()

    assert "<a " not in html
    assert " required" in html
