from __future__ import annotations

import html.parser
from collections import Counter
from types import SimpleNamespace

import pytest
import s3_servers
from flask_wtf import FlaskForm
from markupsafe import Markup
from wtforms import FieldList, FileField, Form, FormField, StringField
from wtforms.validators import DataRequired, InputRequired

from flask_store import Provider, StoreFile
from flask_store.forms import (
    ContentType,
    FileAllowed,
    FileCount,
    FileRequired,
    FileSize,
    MultipleStoreFileField,
    StoreFileField,
    StoreFileInput,
    TotalSize,
)


class PhotoForm(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photo = StoreFileField(validators=[FileRequired(), FileAllowed(["jpg", ".PNG"])])


class FreePhotoForm(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photo = StoreFileField()


class PhotosForm(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photos = MultipleStoreFileField(validators=[FileRequired()])


class Elements(html.parser.HTMLParser):
    """The elements of a piece of HTML in their order, each with its attributes; fails where it is not well-formed."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.open = []
        self.texts = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert [name for name, number in Counter(name for name, _ in attrs).items() if number > 1] == []
        self.found.append((tag, dict(attrs)))
        if tag not in ("input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        # As the text of whatever is open.
        self.texts.setdefault(tuple(self.open), []).append(data)

    def of(self, tag, **attributes):
        return [found for name, found in self.found if name == tag and attributes.items() <= found.items()]

    def of_class(self, name):
        return [found for _, found in self.found if name in found.get("class", "").split()]


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
            '<span class="store-file-existing d-block text-break">'
            '<input name="photo-existing" type="hidden" value="photos/sea.jpg">'
            '<a class="store-file" href="/uploads/photos/sea.jpg">sea.jpg</a><br></span> '
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
            '<span class="store-file-existing d-block text-break">'
            f'<input name="photo-existing" type="hidden" value="{saved}">'
            f'<span class="store-file">{saved.filename}</span><br></span> <input '
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

    def test_a_successful_submission_shows_the_new_file(self, post):
        with post({"title": "Sea", "photo": (b"new", "new.jpg")}):
            form = PhotoForm(obj=SimpleNamespace(photo="old.jpg"))
            assert form.validate_on_submit()

            html = form.photo()

        assert ">new.jpg</a>" in html
        assert "old.jpg" not in html


def test_a_failed_submission_without_an_upload_can_be_shown(post):
    with post({"title": ""}):
        form = PhotoForm()
        assert not form.validate_on_submit()
        html = form.photo()

    assert "<a " not in html
    assert " required" in html


class TestWithAKeptFile:
    def test_the_input_follows_its_name_its_size_and_a_token(self, post):
        with post({"title": "", "photo": (b"waves", "sea.jpg")}):
            form = PhotoForm()
            assert not form.validate_on_submit()
            token = form.photo.kept.token

            assert form.photo() == (
                f'<span class="store-file-kept d-block text-break"><input name="photo" type="hidden" value="{token}">'
                "Kept: sea.jpg, 5 Bytes<br></span> "
                '<input accept=".jpg,.png" data-accept-message="Only these types of files are allowed: jpg, png." '
                'data-store-file id="photo" name="photo" type="file">'
            )

    def test_the_existing_file_comes_before_it(self, post):
        with post({"title": "", "photo": (b"new", "new.jpg")}):
            form = PhotoForm(obj=SimpleNamespace(photo="old.jpg"))
            assert not form.validate_on_submit()
            elements = Elements(form.photo())

        shown = [
            found.get("type") or found["class"].split()[0] for tag, found in elements.found if tag in ("span", "input")
        ]
        assert shown == [
            "store-file-existing",
            "hidden",
            "store-file-kept",
            "hidden",
            "checkbox",
            "file",
        ]

    def test_it_is_kept_once_however_often_it_is_shown(self, post, app):
        with post({"title": "", "photo": (b"waves", "sea.jpg")}):
            form = PhotoForm()
            assert not form.validate_on_submit()

            assert form.photo() == form.photo(class_="form-control").replace('class="form-control" ', "")
            assert Provider().clean(0) == 1

    @pytest.mark.parametrize("kind", ["moto"], indirect=True)
    def test_it_is_linked_where_the_store_can_show_it(self, post, kind):
        with post({"title": "", "photo": (b"waves", "sea.jpg")}):
            form = PhotoForm()
            assert not form.validate_on_submit()
            elements = Elements(form.photo())
            [link] = elements.of("a")

        assert "X-Amz-Signature=" in link["href"]
        assert elements.texts["span", "a"] == ["sea.jpg"]

    @pytest.mark.parametrize(
        "name", ["a & 'b' 100%.jpg", "%(size)s.jpg", "%(name)s.jpg", "{}.jpg", "夏.jpg", "&lt;b&gt;.jpg"]
    )
    def test_its_name_is_escaped_and_is_no_placeholder(self, name, post):
        with post({"title": "", "photo": (b"waves", name)}):
            form = FreePhotoForm()
            assert not form.validate_on_submit()
            elements = Elements(form.photo())

        assert "".join(elements.texts[("span",)]).strip() == f"Kept: {name}, 5 Bytes"
        [checkbox] = elements.of("input", type="checkbox")
        assert checkbox["aria-label"] == f"Remove {name}"

    @pytest.mark.parametrize("text", ['"><script>', "kept.", 'kept."><script>', "kept.e30.x.y"])
    def test_what_is_no_token_is_never_shown_again(self, text, post):
        for form_class, name in ((PhotoForm, "photo"), (PhotosForm, "photos")):
            with post({"title": "", name: text}):
                form = form_class()
                assert not form.validate_on_submit()
                elements = Elements(form[name]())

            assert elements.of("input", type="hidden") == []
            assert elements.of("script") == []
            assert " required" in form[name]()

    def test_a_file_that_was_refused_is_not_shown(self, post):
        with post({"title": "", "photo": (b"<?php", "shell.php")}):
            form = PhotoForm()
            assert not form.validate_on_submit()

            assert "store-file-kept" not in form.photo()
            assert " required" in form.photo()

    def test_the_form_has_its_token_in_the_field_alone(self, post):
        with post({"title": "", "photo": (b"waves", "sea.jpg")}):
            form = PhotoForm()
            assert not form.validate_on_submit()
            form.photo()

            assert "kept" not in form.hidden_tag()


class TestTheCheckbox:
    def checkboxes(self, form, name="photo"):
        return Elements(form[name]()).of("input", type="checkbox")

    def test_removes_an_existing_file_where_the_field_may_be_empty(self, get):
        row = SimpleNamespace(photo="photos/a & b.jpg")

        assert self.checkboxes(FreePhotoForm(obj=row)) == [
            {
                "type": "checkbox",
                "name": "photo-clear",
                "value": "photos/a & b.jpg",
                "aria-label": "Remove a & b.jpg",
            }
        ]
        assert self.checkboxes(PhotoForm(obj=row)) == []

    def test_removes_each_of_several_files_even_where_there_must_be_one(self, post):
        sent = {"title": "", "photos": [(b"3", "3.jpg"), (b"4", "4.jpg")], "photos-clear": "1.jpg"}
        with post(sent):
            form = PhotosForm(obj=SimpleNamespace(photos=["1.jpg", "2.jpg"]))
            assert not form.validate_on_submit()
            found = self.checkboxes(form, "photos")
            values = ["1.jpg", "2.jpg", *(kept.id for kept in form.photos.kept)]

        assert [box["value"] for box in found] == values
        assert [box["aria-label"] for box in found] == [f"Remove {number}.jpg" for number in range(1, 5)]
        assert {box["name"] for box in found} == {"photos-clear"}

    def test_stays_ticked_when_the_form_is_shown_again(self, post):
        with post({"title": "", "photos-clear": ["1.jpg", "3.jpg"]}):
            form = PhotosForm(obj=SimpleNamespace(photos=["1.jpg", "2.jpg"]))
            assert not form.validate_on_submit()

            assert ["checked" in box for box in self.checkboxes(form, "photos")] == [True, False]

    def test_takes_back_a_kept_file_where_there_is_another_one_or_may_be_none(self, post):
        old = SimpleNamespace(photo="old.jpg")
        for form_class, row, number in (
            (PhotoForm, None, 0),
            (PhotoForm, old, 1),
            (FreePhotoForm, None, 1),
            (FreePhotoForm, old, 2),
        ):
            with post({"title": "", "photo": (b"new", "new.jpg")}):
                form = form_class(obj=row)
                assert not form.validate_on_submit()
                found = self.checkboxes(form)

                assert len(found) == number
                assert [box["value"] for box in found][-1:] == ([form.photo.kept.id] if number else [])

    def test_is_inside_its_label(self, get):
        elements = Elements(FreePhotoForm(obj=SimpleNamespace(photo="old.jpg")).photo())

        assert len(elements.of("label")) == 1
        assert "".join(elements.texts["span", "label"]).strip() == "Remove"


@pytest.mark.usefixtures("get")
class TestTheRulesForTheBrowser:
    def attributes(self, field_class=StoreFileField, *rules, **kwargs):
        form_class = type("RuleForm", (FlaskForm,), {"photo": field_class(validators=rules)})
        [file_input] = Elements(form_class().photo(**kwargs)).of("input", type="file")
        return file_input

    def test_are_those_of_all_validators(self):
        rules = FileSize(5, min_size=2), FileCount(max=3), TotalSize(9), FileAllowed(["jpg"])
        found = self.attributes(MultipleStoreFileField, *rules)

        assert "multiple" in found
        assert {name: value for name, value in found.items() if name in ("accept", "id", "name")} == {
            "accept": ".jpg",
            "id": "photo",
            "name": "photo",
        }
        numbers = {"data-max-size": "5", "data-min-size": "2", "data-max-files": "3", "data-max-total-size": "9"}
        assert numbers.items() <= found.items()
        assert {name for name in found if name.endswith("-message")} == {
            "data-accept-message",
            *(f"{name}-message" for name in numbers),
        }

    def test_are_the_types_only_where_no_extensions_are(self):
        types, extensions = ContentType(["image/*", "application/pdf"]), FileAllowed(["jpg", "pdf"])
        message = self.attributes(StoreFileField, extensions)["data-accept-message"]

        assert self.attributes(StoreFileField, types)["accept"] == "image/*,application/pdf"
        for rules in ((types, extensions), (extensions, types)):
            found = self.attributes(StoreFileField, *rules)
            assert (found["accept"], found["data-accept-message"]) == (".jpg,.pdf", message)

    def test_can_be_changed_by_a_macro(self):
        found = self.attributes(StoreFileField, FileSize(5), **{"data-max-size": "4", "class": "form-control"})

        assert (found["data-max-size"], found["class"]) == ("4", "form-control")

    def test_that_a_macro_writes_in_python_are_there_once(self):
        found = self.attributes(StoreFileField, FileSize(5), data_max_size="4")

        assert found["data-max-size"] == "4"

    def test_say_nothing_of_several_files_where_there_is_one(self):
        assert "multiple" not in self.attributes(StoreFileField)
        assert "multiple" in self.attributes(MultipleStoreFileField)

    def test_are_escaped(self):
        found = self.attributes(StoreFileField, FileAllowed(["jpg"], message='Say "jpg" & <nothing> else'))

        assert found["data-accept-message"] == 'Say "jpg" & <nothing> else'


def test_a_form_with_everything_in_it_is_well_formed_and_no_id_is_there_twice(post):
    class AlbumForm(Form):
        cover = StoreFileField("Cover")
        photos = MultipleStoreFileField("Photos", [FileAllowed(["jpg"]), FileCount(max=9)])

    class Outer(FlaskForm):
        title = StringField(validators=[DataRequired()])
        photo = StoreFileField("Photo")
        album = FormField(AlbumForm)
        albums = FieldList(FormField(AlbumForm))
        more = FieldList(StoreFileField("One more"))

    album = SimpleNamespace(cover="old.jpg", photos=["1 & 2.jpg", "3%.jpg"])
    page = SimpleNamespace(title="", photo="old.jpg", album=album, albums=[album, album], more=["old.jpg"])
    sent = {"photo": (b"new", "new.jpg"), "more-0": (b"new", "new.jpg"), "more-1": (b"new", "new.jpg")}
    for name in ("album", "albums-0", "albums-1"):
        sent |= {f"{name}-cover": (b"new", "'new'.jpg"), f"{name}-photos": [(b"1", "1.jpg"), (b"2", "2.exe")]}
    with post(sent):
        form = Outer(obj=page)
        assert not form.validate_on_submit()
        albums = [form.album.form, *(entry.form for entry in form.albums)]
        fields = [form.photo, *form.more, *(field for album in albums for field in album)]
        elements = Elements(Markup("").join(field.label() + field() for field in fields))

    ids = [found["id"] for _, found in elements.found if "id" in found]
    assert len(ids) == len(set(ids)) == len(fields) == 9
    assert [found["for"] for found in elements.of("label") if "for" in found] == ids
    named = [found for found in elements.of("input", type="hidden") if found["name"].endswith("-existing")]
    assert [found["value"] for found in named].count("") == 1  # the list has one file, and two entries
    assert len(elements.of("input", type="hidden")) == 9 + len(named) == 9 + 11 + 1
    assert len(elements.of_class("store-file-existing")) == 11


@pytest.mark.parametrize("attribute", [{"form": "other"}, {"disabled": True}])
def test_what_puts_the_input_elsewhere_or_out_of_use_counts_for_all_inputs(post, attribute):
    class FreeForm(FlaskForm):
        title = StringField(validators=[DataRequired()])
        photo = StoreFileField()

    with post({"title": "", "photo": (b"new", "new.jpg")}):
        form = FreeForm(obj=SimpleNamespace(photo="old.jpg"))
        assert not form.validate_on_submit()
        inputs = Elements(form.photo(**attribute)).of("input")

    [name] = attribute
    assert [found["type"] for found in inputs] == ["hidden", "checkbox", "hidden", "checkbox", "file"]
    assert all(name in found for found in inputs)


def test_the_field_may_be_somebody_elses(get):
    class OtherForm(FlaskForm):
        photo = FileField(widget=StoreFileInput())

    assert OtherForm().photo() == '<input id="photo" name="photo" type="file">'
