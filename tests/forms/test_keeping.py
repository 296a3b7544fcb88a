"""A good upload of a form that failed is kept, and found when the form is sent again: by its visitor alone, once."""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import pytest
from flask import request, session
from flask.sessions import SecureCookieSessionInterface
from flask_wtf import FlaskForm
from werkzeug.datastructures import CombinedMultiDict, FileStorage, ImmutableMultiDict
from wtforms import FieldList, Form, FormField, StringField
from wtforms.validators import DataRequired, InputRequired, Optional, StopValidation, ValidationError

from flask_store import NotFoundError, ServiceError, signing
from flask_store.forms import ContentType, FileAllowed, FileRequired, FileSize, MultipleStoreFileField, StoreFileField
from flask_store.forms.keeping import MAX_TOKEN_SIZE
from flask_store.stores import kept
from flask_store.stores.base import BaseStore
from flask_store.stores.local import LocalStore
from flask_store.transaction import transaction

GONE = "The file that was kept is no longer there. Please choose it again."
FAILED = "The file could not be stored. Please try again later."

SESSION_KEY = "_flask_store_kept"

TIMEOUT = 60


class PhotoForm(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photo = StoreFileField(validators=[FileRequired(), FileAllowed(["jpg", "png"])], destination="photos")


class OtherForm(PhotoForm):
    """Has the same fields."""


class AlbumForm(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photos = MultipleStoreFileField(validators=[FileAllowed(["jpg"])], destination="photos")


class PairForm(FlaskForm):
    title = StringField(validators=[DataRequired()])
    first = StoreFileField()
    second = StoreFileField()


class PlainPhotoForm(Form):
    title = StringField(validators=[DataRequired()])
    photo = StoreFileField(destination="photos")


class NestedForm(FlaskForm):
    album = FormField(PlainPhotoForm)


class ListForm(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photos = FieldList(StoreFileField(destination="photos"))


class AlbumsForm(FlaskForm):
    albums = FieldList(FormField(PlainPhotoForm))


class Page:
    """What a visitor gets: whether the form was valid, and its fields."""

    def __init__(self, response):
        assert response.status_code == 200, response.text
        self.response = response
        self.__dict__.update(response.json)

    @property
    def tokens(self):
        """The hidden inputs, each name with the list of its values."""
        found = re.findall(r'<input name="([^"]+)" type="hidden" value="(kept\.[^"]*)">', self.html)
        return ImmutableMultiDict(found).to_dict(flat=False)

    @property
    def cookie(self):
        return self.response.headers.get("Set-Cookie")


class Site:
    """An application with one form, and a visitor of it."""

    def __init__(self, app, make_form):
        self.app = app
        self.make_form = make_form
        app.add_url_rule("/", view_func=self.view, methods=["GET", "POST"])
        app.add_url_rule("/other", view_func=self.other, methods=["POST"])
        self.client = app.test_client()
        self.wrong_later = None

    def view(self):
        form = self.make_form()
        valid = form.validate_on_submit() if isinstance(form, FlaskForm) else form.validate()
        if self.wrong_later is not None:
            self.wrong_later(form)
        return self.shown(form, valid)

    def other(self):
        form = OtherForm()
        return self.shown(form, form.validate_on_submit())

    def shown(self, form, valid):
        # The fields of a valid form are not shown: it was sent.
        html = "" if valid else "".join(str(field()) for field in form)
        return {"valid": bool(valid), "html": html, "errors": form.errors}

    def send(self, data, path="/", client=None, **options):
        client = client or self.client
        data = {name: list(map(part, value)) if type(value) is list else part(value) for name, value in data.items()}
        options.setdefault("content_type", "multipart/form-data")
        with client.post(path, data=data, **options) as response:
            response.request.environ["wsgi.input"].close()
            return Page(response)

    def session_value(self):
        with self.client.session_transaction() as session:
            return session[SESSION_KEY]


def part(value):
    return (io.BytesIO(value[0]), value[1]) if isinstance(value, tuple) else value


WAVES = b"waves", "sea.jpg"


@pytest.fixture
def visit(app):
    """Return a function that puts a form on a site and returns that."""
    return lambda form_class=PhotoForm: Site(app, form_class)


@pytest.fixture
def places(stored):
    """Return a function that gives the kept uploads' bytes, and those of the stored files by path."""

    def look():
        files = stored()
        return (
            [content for path, content in files.items() if re.fullmatch(r"\.kept/[0-9a-f]{10}-[0-9a-f]{32}", path)],
            {path: content for path, content in files.items() if not path.startswith(".kept/")},
        )

    return look


@pytest.fixture
def pass_time(monkeypatch):
    """Return a function that has the clock of all signatures go on by some seconds."""

    def pass_seconds(seconds):
        now = time.time() + seconds
        monkeypatch.setattr("itsdangerous.timed.time", SimpleNamespace(time=lambda: now))

    return pass_seconds


def named(files, content):
    """Return the path of the file with some bytes, where its name may have a part of its own."""
    [path] = [path for path, found in files.items() if found == content]
    return re.sub(r"_[\w-]{14}(?=\.\w+$)", "", path)


class TestAFormThatFails:
    def test_keeps_its_upload_and_has_it_when_the_other_field_is_corrected(self, visit, places):
        site = visit()

        failed = site.send({"title": "", "photo": WAVES})
        assert not failed.valid
        assert list(failed.errors) == ["title"]
        assert places() == ([b"waves"], {})
        sent = site.send({"title": "Sea", **failed.tokens})

        assert sent.valid
        kept_uploads, files = places()
        assert kept_uploads == []
        assert named(files, b"waves") == "photos/sea.jpg"

    def test_says_what_it_keeps(self, visit, stored):
        page = visit().send({"title": "", "photo": (bytes(2_100_000), "a <b> & 'c'.jpg")})

        text = re.sub("<[^>]+>", "", page.html)
        assert "a _b_ &amp; &#39;c&#39;.jpg, 2.1 MB" in text

    def test_links_to_what_it_keeps_where_the_store_may_show_it(self, visit, stored, kind):
        page = visit().send({"title": "", "photo": WAVES})

        assert ("<a " in page.html) == (kind != "local")
        assert "X-Amz-Signature" in page.html or kind == "local"

    def test_twice_carries_the_same_token_and_keeps_nothing_more(self, visit, places):
        site = visit()

        first = site.send({"title": "", "photo": WAVES})
        second = site.send({"title": "", **first.tokens})
        third = site.send({"title": "", **second.tokens})

        assert first.tokens == second.tokens == third.tokens != {}
        assert third.errors == {"title": ["This field is required."]}
        assert places() == ([b"waves"], {})
        assert site.send({"title": "Sea", **third.tokens}).valid

    def test_stores_a_new_file_rather_than_the_kept_one(self, visit, places):
        site = visit()

        tokens = site.send({"title": "", "photo": WAVES}).tokens
        sent = site.send({"title": "Sea", "photo": [(b"dunes", "sand.jpg"), *tokens["photo"]]})

        assert sent.valid
        assert list(places()[1].items()) == [("photos/sand.jpg", b"dunes")]

    def test_keeps_a_new_file_rather_than_the_kept_one(self, visit, places):
        site = visit()

        tokens = site.send({"title": "", "photo": WAVES}).tokens
        failed = site.send({"title": "", "photo": [*tokens["photo"], (b"dunes", "sand.jpg")]})

        assert failed.tokens.keys() == {"photo"}
        assert failed.tokens != tokens
        assert site.send({"title": "Sea", **failed.tokens}).valid
        assert named(places()[1], b"dunes") == "photos/sand.jpg"

    def test_with_a_new_file_that_is_refused_still_keeps_the_good_one(self, visit, places):
        site = visit()

        tokens = site.send({"title": "", "photo": WAVES}).tokens
        failed = site.send({"title": "Sea", "photo": [*tokens["photo"], (b"MZ", "virus.exe")]})
        assert list(failed.errors) == ["photo"]
        assert failed.tokens == tokens
        site.send({"title": "Sea", **failed.tokens})

        assert list(places()[1].values()) == [b"waves"]

    def test_does_without_keeping_where_the_request_is_over(self, app, post, places, caplog):
        with post({"title": "", "photo": WAVES}):
            form = PhotoForm()
            assert not form.validate_on_submit()
            request.files["photo"].close()  # as for a template that is streamed
            html = form.photo()

        assert "kept." not in html
        assert [record.levelname for record in caplog.records] == ["ERROR"]

    def test_deletes_what_the_visitor_removed_or_replaced_once_it_is_valid(self, visit, places):
        site = visit(AlbumForm)
        failed = site.send({"title": "", "photos": [(b"1", "a.jpg"), (b"3", "c.jpg")]})
        box = re.search(r'name="photos-clear" type="checkbox" value="([^"]+)"', failed.html)[1]
        assert site.send({"title": "Sea", **failed.tokens, "photos-clear": box}).valid
        assert places()[0] == []

        assert [*places()[1].values()] == [b"3"]

    def test_with_a_new_file_that_is_refused_does_not_offer_what_is_gone(self, app, visit, places):
        site = visit()
        tokens = site.send({"title": "", "photo": WAVES}).tokens
        app.extensions["store"].provider().clean(0)

        failed = site.send({"title": "Sea", "photo": [*tokens["photo"], (b"MZ", "virus.exe")]})

        assert not failed.valid
        assert failed.tokens == {}

    def test_with_a_good_new_file_that_cannot_be_kept_offers_no_older_one(self, app, visit, places):
        site = visit()
        tokens = site.send({"title": "", "photo": WAVES}).tokens
        app.config["WTF_CSRF_ENABLED"] = True

        failed = site.send({"title": "", "photo": [(b"dunes", "sand.jpg"), *tokens["photo"]]})

        assert not failed.valid
        assert failed.tokens == {}

    def test_is_valid_as_often_as_it_is_asked_beside_a_token_that_is_none(self, post, places):
        with post({"title": "Sea", "photo": [(b"dunes", "sand.jpg"), "kept.forged"]}):
            form = PhotoForm()

            assert [form.validate_on_submit() for _ in range(2)] == [True, True]

    def test_deletes_the_kept_upload_that_a_new_one_has_beaten(self, visit, places):
        site = visit()
        tokens = site.send({"title": "", "photo": WAVES}).tokens

        assert site.send({"title": "Sea", "photo": [(b"dunes", "sand.jpg"), *tokens["photo"]]}).valid

        assert places()[0] == []

    @pytest.mark.parametrize("upload", [(b"MZ", "virus.exe"), (b"", "")])
    def test_because_of_the_upload_does_not_keep_it(self, upload, visit, places):
        page = visit().send({"title": "", "photo": upload})

        assert set(page.errors) == {"title", "photo"}
        assert page.tokens == {}
        assert places() == ([], {})

    def test_judges_the_kept_upload_again(self, visit, places):
        allowed = [b"waves"]

        def is_allowed(form, field):
            if field.data.read() not in allowed:
                raise ValidationError("not any more")

        class JudgingForm(FlaskForm):
            title = StringField(validators=[DataRequired()])
            photo = StoreFileField(validators=[FileRequired(), FileAllowed(["jpg"]), is_allowed])

        site = visit(JudgingForm)
        tokens = site.send({"title": "", "photo": WAVES}).tokens
        allowed.clear()
        refused = site.send({"title": "Sea", **tokens})

        assert refused.errors == {"photo": ["not any more"]}
        assert refused.tokens == {}
        assert places()[1] == {}

    def test_gives_validators_a_file_like_the_one_that_was_sent(self, visit, stored):
        seen = []

        def look(form, field):
            upload = field.data
            assert isinstance(upload, FileStorage)
            size = upload.stream.seek(0, os.SEEK_END)
            upload.stream.seek(1)
            middle = upload.stream.read(2)
            upload.seek(0)
            seen.append((upload.filename, size, middle, upload.read(), upload.mimetype, bool(upload)))

        class LookingForm(FlaskForm):
            title = StringField(validators=[DataRequired()])
            photo = StoreFileField(validators=[look])

        site = visit(LookingForm)
        tokens = site.send({"title": "", "photo": (b"waves", "../写真.jpg")}).tokens
        assert site.send({"title": "Sea", **tokens}).valid

        assert seen == [("写真.jpg", 5, b"av", b"waves", "image/jpeg", True)] * 2

    def test_keeps_what_a_validator_has_read(self, visit, places):
        def read(form, field):
            field.data.read(2)

        class ReadingForm(FlaskForm):
            title = StringField(validators=[DataRequired()])
            photo = StoreFileField(validators=[read])

        site = visit(ReadingForm)
        tokens = site.send({"title": "", "photo": WAVES}).tokens

        assert places()[0] == [b"waves"]
        assert site.send({"title": "Sea", **tokens}).valid
        assert list(places()[1].values()) == [b"waves"]

    def test_keeps_the_upload_as_it_came_whatever_a_validator_made_of_it(self, visit, places):
        """The validator does its work again when the form is sent again."""

        def strip(form, field):
            content = field.data.read()
            assert content == b"metadata waves"
            field.data = FileStorage(io.BytesIO(content.removeprefix(b"metadata ")), field.data.filename)

        class StrippingForm(FlaskForm):
            title = StringField(validators=[DataRequired()])
            photo = StoreFileField(validators=[strip])

        site = visit(StrippingForm)
        tokens = site.send({"title": "", "photo": (b"metadata waves", "sea.jpg")}).tokens
        assert places() == ([b"metadata waves"], {})
        assert site.send({"title": "Sea", **tokens}).valid

        assert places() == ([], {"sea.jpg": b"waves"})

    def test_keeps_nothing_of_a_form_that_is_valid(self, visit, places):
        assert visit().send({"title": "Sea", "photo": WAVES}).valid

        assert places() == ([], {"photos/sea.jpg": b"waves"})

    @pytest.mark.parametrize("validator", [InputRequired(), DataRequired(), FileRequired(), Optional()])
    def test_asks_for_no_file_where_one_is_kept(self, validator, visit, places):
        class AskingForm(FlaskForm):
            title = StringField(validators=[DataRequired()])
            photo = StoreFileField(validators=[validator])

        site = visit(AskingForm)
        failed = site.send({"title": "", "photo": WAVES})
        sent = site.send({"title": "Sea", **failed.tokens})

        assert "required" not in failed.html.rpartition("<input")[2]
        assert sent.errors == {}
        assert list(places()[1].values()) == [b"waves"]

    def test_can_be_validated_as_often_as_one_likes_when_it_is_sent_again(self, app, visit, places):
        def make_form():
            form = PhotoForm()
            if form.is_submitted() and form.validate():
                assert form.validate()
                assert form.photo.errors == []
            return form

        site = visit(make_form)
        tokens = site.send({"title": "", "photo": WAVES}).tokens
        sent = site.send({"title": "Sea", **tokens})

        assert sent.errors == {}
        assert list(places()[1].values()) == [b"waves"]

    def test_renders_what_it_keeps_as_often_as_one_likes(self, app, post, places):
        with post({"title": "", "photo": WAVES}):
            form = PhotoForm()
            assert not form.validate()
            assert form.photo() == form.photo()
            assert form.photo.kept is form.photo.kept

        assert places()[0] == [b"waves"]

    def test_that_is_not_shown_keeps_nothing(self, post, places):
        with post({"title": "", "photo": WAVES}):
            assert not PhotoForm().validate()

        assert places() == ([], {})

    def test_that_was_not_validated_keeps_nothing(self, post, places):
        with post({"title": "", "photo": WAVES}):
            form = PhotoForm()
            assert "kept." not in form.photo()

        assert places() == ([], {})

    def test_keeps_the_longest_name(self, visit, places):
        """Of the characters that a token needs most room for."""
        site = visit()

        for name in ("写" * 83, "é" * 125, "😀" * 62, "a" * 251):
            tokens = site.send({"title": "", "photo": (name.encode(), name + ".jpg")}).tokens
            assert len(tokens["photo"][0]) < MAX_TOKEN_SIZE
            assert site.send({"title": "Sea", **tokens}).valid

        assert len(places()[1]) == 4

    @pytest.mark.parametrize("content", [b"", b"x" * 1_000_000], ids=len)
    def test_keeps_files_of_any_size(self, content, visit, places):
        site = visit()

        tokens = site.send({"title": "", "photo": (content, "sea.jpg")}).tokens
        assert site.send({"title": "Sea", **tokens}).valid

        assert list(places()[1].values()) == [content]

    def test_replaces_the_existing_file_by_the_kept_one(self, visit, stored):
        row = SimpleNamespace(title="Sea", photo="photos/old.jpg")
        files = []

        def make_form():
            form = PhotoForm(obj=row)
            files.append(form)
            return form

        site = visit(make_form)
        tokens = site.send({"title": "", "photo": WAVES}).tokens
        assert site.send({"title": "Sea", **tokens}).valid

        form = files[-1]
        assert [str(file) for file in form.photo.replaced] == ["photos/old.jpg"]
        assert re.fullmatch(r"photos/sea.*\.jpg", str(form.photo.data))


class TestSeveralFiles:
    def test_are_kept_one_by_one(self, visit, places):
        site = visit(AlbumForm)

        failed = site.send({"title": "", "photos": [(b"1", "a.jpg"), (b"2", "b.exe"), (b"3", "c.jpg")]})
        assert len(failed.tokens["photos"]) == 2
        assert sorted(places()[0]) == [b"1", b"3"]
        again = site.send({"title": "", **failed.tokens})
        assert again.tokens == failed.tokens
        sent = site.send({"title": "Sea", "photos": [*again.tokens["photos"], (b"4", "d.jpg")]})

        assert sent.valid
        kept_uploads, files = places()
        assert kept_uploads == []
        assert sorted(files.values()) == [b"1", b"3", b"4"]

    def test_can_each_be_removed(self, visit, places):
        site = visit(AlbumForm)

        failed = site.send({"title": "", "photos": [(b"1", "a.jpg"), (b"3", "c.jpg")]})
        boxes = re.findall(r'name="photos-clear" type="checkbox" value="([^"]+)"', failed.html)
        assert len(boxes) == 2
        again = site.send({"title": "", **failed.tokens, "photos-clear": boxes[:1]})
        assert len(again.tokens["photos"]) == 1
        assert site.send({"title": "Sea", **again.tokens}).valid

        assert list(places()[1].values()) == [b"3"]

    def test_of_which_one_is_gone_leave_the_others(self, visit, places):
        site = visit(AlbumForm)

        failed = site.send({"title": "", "photos": [(b"1", "a.jpg"), (b"3", "c.jpg")]})
        first, second = failed.tokens["photos"]
        forged = site.send({"title": "Sea", "photos": [first[:-2], second]})
        assert forged.errors == {"photos": [GONE]}
        assert forged.tokens == {"photos": [second]}
        assert site.send({"title": "Sea", **forged.tokens}).valid

        assert list(places()[1].values()) == [b"3"]

    def test_are_one_if_one_token_comes_twice(self, visit, places):
        """The last character of a signature has bits that say nothing, so one token has several spellings."""
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        forms = []
        site = visit(lambda: forms.append(AlbumForm()) or forms[-1])

        [token] = site.send({"title": "", "photos": WAVES}).tokens["photos"]
        respelled = token[:-1] + letters[letters.index(token[-1]) ^ 1]
        sent = site.send({"title": "Sea", "photos": [token, token, respelled]})

        assert sent.valid
        assert len(forms[-1].photos.data) == 1
        assert list(places()[1].values()) == [b"waves"]


NESTED = [
    pytest.param(NestedForm, "album-title", "album-photo", id="FormField"),
    pytest.param(ListForm, "title", "photos-0", id="FieldList"),
    pytest.param(AlbumsForm, "albums-0-title", "albums-0-photo", id="FieldList of FormField"),
    pytest.param(lambda: PhotoForm(prefix="new"), "new-title", "new-photo", id="prefix"),
    pytest.param(lambda: PhotoForm(prefix="row-7-"), "row-7-title", "row-7-photo", id="prefix with a number"),
]


class TestAFieldIn:
    @pytest.mark.parametrize(("form_class", "title", "photo"), NESTED)
    def test_keeps_its_upload(self, form_class, title, photo, visit, places):
        site = visit(form_class)

        failed = site.send({title: "", photo: WAVES})
        assert failed.tokens.keys() == {photo}
        sent = site.send({title: "Sea", **failed.tokens})

        assert sent.valid
        assert named(places()[1], b"waves") == "photos/sea.jpg"
        assert places()[0] == []

    def test_a_list_is_known_again_when_entries_before_it_go(self, visit, places):
        site = visit(ListForm)

        failed = site.send({"title": "", "photos-0": (b"0", "0.jpg"), "photos-1": (b"1", "1.jpg")})
        sent = site.send({"title": "Sea", "photos-0": failed.tokens["photos-1"]})

        assert sent.valid
        assert list(places()[1].values()) == [b"1"]

    def test_a_list_of_forms_is_known_again_in_another_order(self, visit, places):
        site = visit(AlbumsForm)
        data = {"albums-0-title": "Zero", "albums-1-title": ""}

        failed = site.send({**data, "albums-0-photo": (b"0", "0.jpg"), "albums-1-photo": (b"1", "1.jpg")})
        assert failed.tokens.keys() == {"albums-0-photo", "albums-1-photo"}
        swapped = {
            "albums-3-photo": failed.tokens["albums-0-photo"],
            "albums-9-photo": failed.tokens["albums-1-photo"],
        }
        sent = site.send({"albums-3-title": "Zero", "albums-9-title": "One", **swapped})

        assert sent.valid
        assert sorted(places()[1].values()) == [b"0", b"1"]

    @pytest.mark.parametrize("token_is_first", [True, False])
    @pytest.mark.parametrize("with_file", [True, False])
    def test_a_plain_form_tells_tokens_from_files_whatever_comes_first(self, token_is_first, with_file, visit, places):
        """Flask-Admin puts the texts first."""

        def make_form():
            parts = [request.form, request.files] if token_is_first else [request.files, request.form]
            return PlainPhotoForm(CombinedMultiDict(parts))

        site = visit(make_form)
        tokens = site.send({"title": "", "photo": WAVES}).tokens["photo"]
        sent = site.send({"title": "Sea", "photo": [*tokens, *([(b"dunes", "sand.jpg")] if with_file else [])]})

        assert sent.valid
        assert list(places()[1].values()) == [b"dunes" if with_file else b"waves"]


@pytest.mark.usefixtures("root")  # on one kind of store
class TestTexts:
    @pytest.mark.parametrize("text", ["", "sea.jpg", "kept", "Kept.abc", " kept.abc", "photos/../../x", "\0", "🌊"])
    def test_that_are_no_token_are_no_file(self, text, visit, places):
        site = visit(AlbumForm)

        sent = site.send({"title": "Sea", "photos": text})

        assert sent.valid
        assert places() == ([], {})

    def test_that_are_no_token_do_not_meet_a_requirement(self, visit, stored):
        assert visit().send({"title": "Sea", "photo": "sea.jpg"}).errors == {"photo": ["This field is required."]}

    VALUES = [
        "text",
        "kept.",
        "kept.a.b.c",
        "kept.\ud800",
        "\ud800",
        5,
        True,
        None,
        1.5,
        {"kept.": "x"},
        ["kept."],
        [["kept.x"]],
        [{"a": 1}, None, 5],
        [],
        {},
    ]

    @pytest.mark.parametrize("value", VALUES, ids=json.dumps)
    @pytest.mark.parametrize("name", ["photos", "photos-clear"])
    def test_of_json_are_never_an_error_of_the_server(self, name, value, visit, places):
        site = visit(AlbumForm)

        with site.client.post("/", json={"title": "Sea", name: value}) as response:
            page = Page(response)

        assert page.valid or page.errors == {"photos": [GONE]}
        assert places() == ([], {})

    def test_of_json_may_be_a_token(self, visit, places):
        site = visit()
        [token] = site.send({"title": "", "photo": WAVES}).tokens["photo"]

        with site.client.post("/", json={"title": "Sea", "photo": token}) as response:
            assert Page(response).valid

        assert list(places()[1].values()) == [b"waves"]

    def test_in_the_query_may_be_a_token(self, app, visit, places):
        """Of a plain form that a developer opens with it, say."""
        site = visit(lambda: PlainPhotoForm(CombinedMultiDict([request.args, request.form, request.files])))
        [token] = site.send({"title": "", "photo": WAVES}).tokens["photo"]

        assert Page(site.client.post("/", query_string={"title": "Sea", "photo": token})).valid
        assert list(places()[1].values()) == [b"waves"]


@pytest.mark.usefixtures("root")  # on one kind of store
class TestNothingIsKept:
    def test_without_a_secret_key(self, app, post, places):
        app.secret_key = None
        with post({"title": "", "photo": WAVES}):
            form = PhotoForm()
            assert not form.validate()
            assert "kept." not in form.photo()

        assert places() == ([], {})

    def test_and_a_token_is_gone_without_a_secret_key(self, app, post, places):
        app.secret_key = None
        with post({"title": "Sea", "photo": "kept.a.b.c"}):
            form = PhotoForm()
            assert not form.validate()
            assert form.errors == {"photo": [GONE]}

    def test_without_a_request(self, app, places, upload):
        form = PlainPhotoForm(data={"photo": upload()})

        assert not form.validate()
        assert form.photo.kept is None
        assert "kept." not in form.photo()
        assert places() == ([], {})

    def test_and_a_token_is_gone_without_a_request(self, app, places):
        form = PlainPhotoForm(ImmutableMultiDict({"title": "Sea", "photo": "kept.a.b.c"}))

        assert not form.validate()
        assert form.errors == {"photo": [GONE]}

    def test_where_the_application_does_not_want_it(self, app, visit, places):
        app.config["STORE_KEEP_UPLOADS"] = 0
        site = visit()

        failed = site.send({"title": "", "photo": WAVES})

        assert failed.tokens == {}
        assert failed.cookie is None
        assert places() == ([], {})

    def test_any_more_where_the_application_does_not_want_it_now(self, app, visit, places):
        site = visit()
        tokens = site.send({"title": "", "photo": WAVES}).tokens
        app.config["STORE_KEEP_UPLOADS"] = 0

        assert site.send({"title": "Sea", **tokens}).errors == {"photo": [GONE]}

    def test_of_a_form_whose_csrf_token_is_wrong(self, app, visit, places):
        app.config["WTF_CSRF_ENABLED"] = True

        failed = visit().send({"title": "", "photo": WAVES, "csrf_token": "wrong"})

        assert set(failed.errors) == {"csrf_token", "title"}
        assert failed.tokens == {}
        assert places() == ([], {})

    def test_of_a_form_within_whose_csrf_token_is_wrong(self, app, visit, places):
        app.config["WTF_CSRF_ENABLED"] = True

        class OuterForm(FlaskForm):
            album = FormField(PlainPhotoForm)

        failed = visit(OuterForm).send({"album-title": "", "album-photo": WAVES})

        assert set(failed.errors) == {"csrf_token", "album"}
        assert failed.tokens == {}
        assert places() == ([], {})

    def test_of_a_form_whose_csrf_token_nobody_looked_at(self, app, visit, places):
        app.config["WTF_CSRF_ENABLED"] = True

        class HastyForm(PhotoForm):
            def validate(self, extra_validators=None):
                return self.photo.validate(self) and self.title.validate(self)

        failed = visit(HastyForm).send({"title": "", "photo": WAVES})

        assert not failed.valid
        assert failed.tokens == {}
        assert places() == ([], {})

    def test_but_is_where_the_csrf_token_is_right(self, app, visit, places):
        app.config["WTF_CSRF_ENABLED"] = True
        site = visit()
        csrf = re.search('name="csrf_token" type="hidden" value="([^"]+)"', site.client.get("/").json["html"])[1]

        failed = site.send({"title": "", "photo": WAVES, "csrf_token": csrf})
        assert failed.tokens.keys() == {"photo"}
        assert site.send({"title": "Sea", "csrf_token": csrf, **failed.tokens}).valid
        assert list(places()[1].values()) == [b"waves"]

    @pytest.mark.parametrize("who", ["the form", "the view"])
    def test_of_a_field_that_somebody_else_found_wrong(self, who, visit, places):
        def complain(form):
            form.photo.errors = [*form.photo.errors, "It is too dark."]

        class DarkForm(PhotoForm):
            def validate(self, extra_validators=None):
                valid = super().validate(extra_validators)
                if who == "the form":
                    complain(self)
                return valid and who != "the form"

        site = visit(DarkForm)
        if who == "the view":
            site.wrong_later = complain
        failed = site.send({"title": "", "photo": WAVES})

        assert failed.errors["photo"] == ["It is too dark."]
        assert failed.tokens == {}
        assert places() == ([], {})

    @pytest.mark.parametrize("error", [["not a text"], {"code": 1}, 5, None], ids=repr)
    def test_of_a_field_whose_error_is_no_text(self, error, visit, places):
        def complain(form, field):
            raise ValidationError(error)

        class StrangeForm(FlaskForm):
            photo = StoreFileField(validators=[complain])

        failed = visit(StrangeForm).send({"photo": WAVES})

        assert failed.errors == {"photo": [error]}
        assert failed.tokens == {}
        assert places() == ([], {})

    def test_of_an_upload_that_a_validator_stopped_at_without_a_word(self, visit, places):
        def stop(form, field):
            raise StopValidation

        class StoppingForm(FlaskForm):
            title = StringField(validators=[DataRequired()])
            photo = StoreFileField(validators=[stop])

        site = visit(StoppingForm)
        failed = site.send({"title": "", "photo": WAVES})

        # It said nothing against the upload.
        assert list(failed.errors) == ["title"]
        assert failed.tokens.keys() == {"photo"}

    @pytest.mark.parametrize("provider", ["StoreWithoutKeep", "StoreWithoutClean"])
    def test_by_a_store_that_cannot(self, make_app, provider):
        app = make_app(STORE_PROVIDER=f"{__name__}.{provider}")

        page = Site(app, PhotoForm).send({"title": "", "photo": WAVES})

        assert list(page.errors) == ["title"]
        assert bool(page.tokens) == (provider != "StoreWithoutKeep")

    def test_by_a_store_that_fails_which_is_logged(self, make_app, caplog):
        app = make_app(STORE_PROVIDER=f"{__name__}.FailingStore")

        page = Site(app, PhotoForm).send({"title": "", "photo": WAVES})

        assert list(page.errors) == ["title"]
        assert page.tokens == {}
        assert page.cookie is None
        [record] = caplog.records
        assert record.levelno == logging.ERROR
        assert "'photo'" in record.getMessage()


class StoreWithoutKeep(LocalStore):
    keep = BaseStore.keep


class StoreWithoutClean(LocalStore):
    clean = BaseStore.clean


class FailingStore(LocalStore):
    def keep(self, file):
        raise ServiceError("the disk is full")


@pytest.mark.usefixtures("root")  # on one kind of store
class TestTheSession:
    def test_gets_a_cookie_only_when_something_is_kept(self, visit, stored):
        site = visit()

        with site.client.get("/") as response:
            assert "Set-Cookie" not in response.headers
        assert site.send({"title": ""}).cookie is None
        assert site.send({"title": "", "photo": (b"MZ", "virus.exe")}).cookie is None
        assert site.send({"title": "Sea", "photo": WAVES}).cookie is None
        assert site.send({"title": "Sea", "photo": "kept.a.b.c"}).cookie is None
        assert site.send({"title": "", "photo": WAVES}).cookie.startswith("session=")

    def test_has_one_value_for_all_that_is_kept(self, visit, stored):
        site = visit()

        site.send({"title": "", "photo": WAVES})
        value = site.session_value()
        again = site.send({"title": "", "photo": WAVES})

        assert len(value) >= 40
        assert site.session_value() == value
        assert again.cookie is None

    def test_may_have_anything_under_its_key(self, visit, places):
        site = visit()
        with site.client.session_transaction() as session:
            session[SESSION_KEY] = {"what": "ever"}

        tokens = site.send({"title": "", "photo": WAVES}).tokens
        assert site.send({"title": "Sea", **tokens}).valid

        assert list(places()[1].values()) == [b"waves"]

    def test_need_not_be(self, app, visit, places):
        class NoSessions(SecureCookieSessionInterface):
            def open_session(self, app, request):
                return None

        app.session_interface = NoSessions()
        site = visit()

        tokens = site.send({"title": "", "photo": WAVES}).tokens
        sent = site.send({"title": "Sea", **tokens})

        assert sent.valid
        assert sent.cookie is None
        assert list(places()[1].values()) == [b"waves"]

    def test_that_has_ended_ends_its_tokens(self, visit, places):
        site = visit()
        tokens = site.send({"title": "", "photo": WAVES}).tokens
        with site.client.session_transaction() as session:
            session.clear()

        assert site.send({"title": "Sea", **tokens}).errors == {"photo": [GONE]}
        assert places()[1] == {}


#: What no kept upload is called: paths to other places, and what resembles an id.
NO_IDS = [
    "../canary.txt",
    "../../canary.txt",
    "..",
    ".",
    "",
    "/",
    "../photos/canary.txt",
    "0065a1b2c3-" + "0" * 32 + "/../../canary.txt",
    "0065a1b2c3-" + "0" * 32 + "\n",
    "0065A1B2C3-" + "0" * 32,
    "٠" * 10 + "-" + "0" * 32,
    "0065a1b2c3-" + "0" * 32 + "\0",
    "0065a1b2c3-" + "0" * 32,
    "C:\\canary.txt",
    "~/canary.txt",
]


class TestAnAttack:
    """Each ends with a message at the field, and nothing stored."""

    @pytest.fixture
    def site(self, visit, places):
        return visit()

    @pytest.fixture
    def token(self, site):
        [token] = site.send({"title": "", "photo": WAVES}).tokens["photo"]
        return token

    @pytest.fixture
    def fails(self, site, places):
        def assert_fails(token, **options):
            failed = site.send({"title": "Sea", "photo": token}, **options)
            assert failed.errors == {"photo": [GONE]}, token
            assert failed.tokens == {}
            # And again together with another error.
            assert site.send({"title": "", "photo": token}, **options).tokens == {}
            assert places()[1] == {}

        return assert_fails

    def sign(self, site, value, **changes):
        purpose = {
            "what": "kept upload",
            "session": site.session_value(),
            "form": f"{__name__}.PhotoForm",
            "field": "photo",
        }
        return "kept." + signing.sign(site.app, list({**purpose, **changes}.values()), value)

    def value_of(self, places, stored):
        [path] = stored()
        return [path.removeprefix(".kept/"), "sea.jpg", 5]

    def test_of_this_kind_would_succeed_if_the_token_were_right(self, site, token, stored, places):
        forged = self.sign(site, self.value_of(places, stored))

        assert site.send({"title": "Sea", "photo": forged}).valid

    @pytest.mark.parametrize(
        "changes",
        [{"what": "expiring URL"}, {"session": ""}, {"session": "other"}, {"form": "other.Form"}, {"field": "film"}],
        ids=str,
    )
    def test_with_a_token_for_something_else(self, site, token, stored, places, fails, changes):
        fails(self.sign(site, self.value_of(places, stored), **changes))

    def test_with_a_forged_token(self, token, fails):
        payload, stamp, signature = token.removeprefix("kept.").split(".")[-3:]
        for forged in (
            "kept.",
            "kept...",
            "kept.a.b.c",
            f"kept.{payload}",
            f"kept.{payload}.{stamp}.",
            f"kept.{payload}.{stamp}.{signature[:-1]}",
            f"kept.{payload}.{stamp}.{signature}.",
            f"kept.{token}",
            f"{token}\0",
            f"{token} {token}",
            "kept.\0",
            "kept.é写😀",
        ):
            fails(forged)

    def test_with_a_token_of_which_a_bit_is_flipped(self, site, token, fails):
        for place in range(len("kept."), len(token) - 1, 7):
            fails(token[:place] + chr(ord(token[place]) ^ 1) + token[place + 1 :])

    def test_with_a_huge_token(self, site, token, fails):
        fails("kept." + "A" * 400_000)
        fails(token + "A" * MAX_TOKEN_SIZE)

    def test_with_ten_thousand_tokens(self, site, token, places):
        # What a form may have in texts is limited by Flask, to 500 kB.
        failed = site.send({"title": "Sea", "photo": ["kept.a.b.c"] * 900})

        assert failed.errors == {"photo": [GONE]}

    def test_with_a_token_that_is_too_old(self, app, token, fails, pass_time):
        pass_time(3602)

        fails(token)

    def test_with_a_token_that_is_too_old_for_the_setting(self, app, token, fails, pass_time):
        app.config["STORE_KEEP_UPLOADS"] = 10
        pass_time(12)

        fails(token)

    def test_fails_later_than_the_token_is_good(self, site, token, pass_time):
        pass_time(3590)

        assert site.send({"title": "Sea", "photo": token}).valid

    def test_with_the_token_of_another_field(self, visit, places):
        site = visit(PairForm)
        [token] = site.send({"title": "", "first": WAVES}).tokens["first"]

        failed = site.send({"title": "Sea", "second": token})

        assert failed.errors == {"second": [GONE]}
        assert places()[1] == {}

    def test_with_the_token_of_another_form(self, token, fails):
        fails(token, path="/other")

    def test_with_the_token_of_another_visitor(self, app, site, token, fails):
        other = app.test_client()
        fails(token, client=other)
        # Nor when that one has a value of their own.
        assert site.send({"title": "", "photo": (b"own", "own.jpg")}, client=other).tokens
        fails(token, client=other)

    def test_with_a_token_of_another_key(self, app, site, token, stored, places, fails):
        value, key = self.value_of(places, stored), app.secret_key
        app.secret_key = "another"
        with app.test_client().session_transaction() as session:
            session[SESSION_KEY] = "x"
        app.secret_key = key
        session_value = site.session_value()
        app.secret_key = "another"
        forged = "kept." + signing.sign(app, ["kept upload", session_value, f"{__name__}.PhotoForm", "photo"], value)
        app.secret_key = key

        fails(forged)

    def test_is_none_where_the_key_was_replaced_meanwhile(self, app, site, token, places):
        app.config["SECRET_KEY_FALLBACKS"] = [app.secret_key]
        app.secret_key = "new"

        assert site.send({"title": "Sea", "photo": token}).valid
        assert list(places()[1].values()) == [b"waves"]

    def test_with_a_token_that_was_used(self, site, token, places):
        assert site.send({"title": "Sea", "photo": token}).valid
        before = places()

        for _ in range(2):
            assert site.send({"title": "Sea", "photo": token}).errors == {"photo": [GONE]}
        assert site.send({"title": "", "photo": token}).tokens == {}
        assert places() == before

    def test_with_a_token_for_what_was_cleaned_away(self, app, site, token, fails):
        app.extensions["store"].provider().clean(0)

        fails(token)

    def test_with_a_token_that_the_application_itself_signed_for_a_path(self, app, site, token, fails, stored):
        canary = os.path.join(app.instance_path, "canary.txt")
        os.makedirs(app.instance_path, exist_ok=True)
        with open(canary, "wb") as file:
            file.write(b"do not touch")

        for id in NO_IDS:
            fails(self.sign(site, [id, "canary.txt", 12]))

        with open(canary, "rb") as file:
            assert file.read() == b"do not touch"
        assert list(stored().values()) == [b"waves"]

    def test_with_a_path_to_be_removed(self, app, visit, places, stored):
        """What a visitor wants removed is compared, never opened."""
        site = visit(AlbumForm)

        for path in ("../canary.txt", "photos/../../x", "\0", "/etc", "🌊"):
            assert site.send({"title": "Sea", "photos-clear": path}).valid

    def test_does_not_have_names_from_the_token_that_are_not_safe(self, site, token, stored, places):
        forged = self.sign(site, [*self.value_of(places, stored)[:1], "../../canary.jpg", 5])

        assert site.send({"title": "Sea", "photo": forged}).valid
        assert named(places()[1], b"waves") == "photos/canary.jpg"


class TestTheSameTokenAtOnce:
    def test_in_two_entries_of_a_list_is_one_file(self, visit, places):
        site = visit(ListForm)
        [token] = site.send({"title": "", "photos-0": WAVES}).tokens["photos-0"]

        sent = site.send({"title": "Sea", "photos-0": token, "photos-1": token})

        assert sent.errors == {"photos": [[], [GONE]]}
        assert places() == ([b"waves"], {})

    def test_in_ten_requests_is_one_file_and_never_an_error_of_the_server(self, app, visit, places, kind):
        site = visit()
        [token] = site.send({"title": "", "photo": WAVES}).tokens["photo"]
        cookie = site.client.get_cookie("session").value
        start = threading.Barrier(10)

        def send(number):
            client = app.test_client()
            client.set_cookie("session", cookie)
            start.wait(TIMEOUT)
            return site.send({"title": "Sea", "photo": token}, client=client)

        with ThreadPoolExecutor(10) as pool:
            pages = list(pool.map(send, range(10)))

        assert [page.errors for page in pages if not page.valid] == [{"photo": [GONE]}] * sum(
            not page.valid for page in pages
        )
        valid = [page for page in pages if page.valid]
        assert len(valid) == 1 or valid and kind != "local"
        assert places()[0] == []
        assert list(places()[1].values()) == [b"waves"]


class TestAValidFormThatCannotBeSaved:
    @pytest.fixture
    def pair(self, visit):
        """A site whose second file cannot be saved while ``working`` is empty."""
        working = []

        def destination(form):
            if not working:
                raise ServiceError("the disk is full")
            return "second"

        class BlockedForm(FlaskForm):
            first = StoreFileField()
            second = StoreFileField(destination=destination)

        site = visit(BlockedForm)
        site.working = working
        return site

    def test_keeps_the_uploads_of_all_fields(self, places, pair):
        failed = pair.send({"first": (b"1", "1.jpg"), "second": (b"2", "2.jpg")})

        assert failed.errors == {"second": [FAILED]}
        assert failed.tokens.keys() == {"first", "second"}
        assert (sorted(places()[0]), places()[1]) == ([b"1", b"2"], {})
        pair.working.append(True)
        assert pair.send(failed.tokens).valid
        assert places()[0] == []
        assert sorted(places()[1].values()) == [b"1", b"2"]

    def test_keeps_kept_ones_for_another_time(self, places, pair):
        failed = pair.send({"first": (b"1", "1.jpg"), "second": (b"2", "2.jpg")})
        again = pair.send(failed.tokens)

        assert again.errors == {"second": [FAILED]}
        assert again.tokens == failed.tokens
        assert (sorted(places()[0]), places()[1]) == ([b"1", b"2"], {})
        pair.working.append(True)
        assert pair.send(again.tokens).valid
        assert places()[0] == []
        assert sorted(places()[1].values()) == [b"1", b"2"]

    @pytest.mark.parametrize("sent", ["file", "token"])
    def test_because_the_database_failed_keeps_its_uploads(self, sent, app, post, visit, places):
        class DatabaseError(Exception):
            pass

        site = visit()
        broken = [True]

        def view():
            form = PhotoForm()
            valid = False
            try:
                with transaction():
                    valid = form.validate_on_submit()
                    if valid and broken:
                        valid = False
                        raise DatabaseError
            except DatabaseError:
                pass
            return site.shown(form, valid)

        app.add_url_rule("/row", "row", view, methods=["POST"])
        data = {"photo": WAVES} if sent == "file" else site.send({"title": "", "photo": WAVES}).tokens
        failed = site.send({"title": "Sea", **data}, "/row")

        assert failed.tokens.keys() == {"photo"}
        assert places() == ([b"waves"], {})
        broken.clear()
        assert site.send({"title": "Sea", **failed.tokens}, "/row").valid
        assert places()[0] == []
        assert list(places()[1].values()) == [b"waves"]

    def test_on_a_store_that_fails_keeps_it_where_that_works(self, make_app, places):
        app = make_app(STORE_PROVIDER=f"{__name__}.ReadOnlyStore")
        site = Site(app, PhotoForm)

        failed = site.send({"title": "Sea", "photo": WAVES})
        assert failed.errors == {"photo": [FAILED]}
        again = site.send({"title": "Sea", **failed.tokens})

        assert again.errors == {"photo": [FAILED]}
        assert again.tokens == failed.tokens != {}

    def test_whose_kept_upload_cannot_be_read_says_so_and_keeps_it(self, make_app, places):
        app = make_app(STORE_PROVIDER=f"{__name__}.UnreadableStore")
        site = Site(app, PhotoForm)

        tokens = site.send({"title": "", "photo": WAVES}).tokens
        failed = site.send({"title": "Sea", **tokens})

        [message] = failed.errors["photo"]
        assert "cannot be read at the moment" in message
        assert failed.tokens == tokens != {}

    def test_because_one_of_several_is_gone_at_the_last_moment_keeps_the_others(self, make_app):
        app = make_app(STORE_PROVIDER=f"{__name__}.ForgetfulStore")
        site = Site(app, AlbumForm)

        tokens = site.send({"title": "", "photos": [WAVES, (b"dunes", "sand.jpg")]}).tokens["photos"]
        failed = site.send({"title": "Sea", "photos": [*tokens, (b"snow", "hill.jpg")]})

        assert failed.errors == {"photos": [GONE]}
        assert failed.tokens["photos"][0] == tokens[0]
        assert len(failed.tokens["photos"]) == 2

    def test_does_not_keep_what_was_refused_where_another_cannot_be_read(self, make_app):
        class SizedForm(FlaskForm):
            title = StringField(validators=[DataRequired()])
            photos = MultipleStoreFileField(validators=[FileSize(5), ContentType(["text/plain"])])

        app = make_app(STORE_PROVIDER=f"{__name__}.UnreadStore")
        site = Site(app, SizedForm)

        tokens = site.send({"title": "", "photos": [(b"waves", "sea.txt")]}).tokens["photos"]
        failed = site.send({"title": "Sea", "photos": [*tokens, (b"too long", "big.txt")]})

        assert len(failed.errors["photos"]) == 2
        assert failed.tokens["photos"] == tokens


class ForgetfulStore(LocalStore):
    def promote(self, id, filename):
        if filename == "sand.jpg":
            raise NotFoundError(id)
        return super().promote(id, filename)


class UnreadStore(LocalStore):
    def open_kept(self, id):
        raise ServiceError("the disk is gone")


class ReadOnlyStore(LocalStore):
    def save(self, file):
        raise ServiceError("the disk is full")

    def promote(self, id, filename):
        raise ServiceError("the disk is full")


class UnreadableStore(LocalStore):
    def is_kept(self, id):
        raise ServiceError("the disk is gone")


class TestTheDestination:
    def test_may_be_another_when_the_form_is_sent_again(self, visit, places):
        class MovingForm(FlaskForm):
            title = StringField(validators=[DataRequired()])
            photo = StoreFileField(destination=lambda form: f"photos/{form.title.data}")

        site = visit(MovingForm)
        tokens = site.send({"title": "", "photo": WAVES}).tokens
        assert site.send({"title": "sea", **tokens}).valid

        assert named(places()[1], b"waves") == "photos/sea/sea.jpg"

    def test_that_has_a_file_of_that_name_keeps_it(self, app, visit, places, upload):
        old = app.extensions["store"].provider("photos").save(upload(b"old", "sea.jpg"))
        site = visit()

        tokens = site.send({"title": "", "photo": WAVES}).tokens
        assert site.send({"title": "Sea", **tokens}).valid

        files = places()[1]
        assert files.pop(str(old)) == b"old"
        assert [bool(re.fullmatch(r"photos/sea_[\w-]{14}\.jpg", path)) for path in files] == [True]


class TestCleaning:
    @pytest.fixture
    def age(self, monkeypatch):
        """Return a function that has ids be made as some seconds ago."""

        def make_ids_old(seconds):
            now = time.time() - seconds
            make_id = kept.make_id
            monkeypatch.setattr(kept, "make_id", lambda: f"{int(now):010x}" + make_id()[10:])

        return make_ids_old

    def test_happens_when_something_is_kept_and_takes_the_oldest_twenty(self, app, visit, places, upload, monkeypatch):
        store = app.extensions["store"].provider()
        make_id = kept.make_id
        now = int(time.time())
        for number in range(25):
            # The oldest have the lowest numbers and are kept last.
            kept_at = now - 10_000 + 25 - number
            monkeypatch.setattr(kept, "make_id", lambda kept_at=kept_at: f"{kept_at:010x}" + make_id()[10:])
            store.keep(upload(str(25 - number).encode()))
        monkeypatch.setattr(kept, "make_id", make_id)

        tokens = visit().send({"title": "", "photo": WAVES}).tokens

        assert tokens
        assert sorted(places()[0]) == sorted([b"waves", *(str(number).encode() for number in range(21, 26))])

    def test_keeps_up_with_visitors_who_never_come_back(self, app, visit, places, upload, age, monkeypatch):
        site = visit()
        with monkeypatch.context() as patch:
            patch.setattr(
                kept, "make_id", lambda make_id=kept.make_id: f"{int(time.time()) - 4000:010x}" + make_id()[10:]
            )
            for _ in range(45):
                app.extensions["store"].provider().keep(upload(b"old"))

        for _ in range(3):
            site.send({"title": "", "photo": WAVES})

        assert places()[0] == [b"waves"] * 3

    def test_happens_once_in_a_while(self, app, visit, places, upload, age):
        site = visit()
        site.send({"title": "", "photo": WAVES})
        age(4000)
        app.extensions["store"].provider().keep(upload(b"old"))

        site.send({"title": "", "photo": WAVES})

        assert b"old" in places()[0]

    def test_that_fails_is_logged_and_the_upload_is_kept(self, make_app, caplog, places):
        app = make_app(STORE_PROVIDER=f"{__name__}.UncleanStore")

        assert Site(app, PhotoForm).send({"title": "", "photo": WAVES}).tokens

        assert [record.levelname for record in caplog.records] == ["ERROR"]


class UncleanStore(LocalStore):
    def clean(self, age, limit=None):
        raise ServiceError("the disk cannot be listed")


def open_files():
    """Return what this process has open, without its connections: S3 is in this process too."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sorted(path for path in found if not path.startswith("socket:"))


class TestManyTokens:
    def test_do_not_have_as_many_files_open(self, app, post, places):
        opened = []

        def count(form, field):
            opened.append(sum("/.kept/" in path for path in open_files()))

        class ManyForm(FlaskForm):
            title = StringField(validators=[DataRequired()])
            photos = MultipleStoreFileField(validators=[ContentType(["text/plain"]), count])

        with post({"title": "", "photos": [(b"waves", f"{number}.txt") for number in range(40)]}):
            form = ManyForm()
            assert not form.validate_on_submit()
            tokens = [kept.token for kept in form.photos.kept]
            session_value = session[SESSION_KEY]
        with post({"title": "Sea", "photos": tokens}):
            session[SESSION_KEY] = session_value
            assert ManyForm().validate_on_submit()

        assert opened[-1] == 0
        assert len(places()[1]) == 40


class TestNothingLeaks:
    @pytest.fixture
    def assert_nothing_leaks(self):
        def run_twice(action):
            action()
            gc.collect()
            before = open_files()
            for _ in range(3):
                action()
            gc.collect()
            assert [path for path in open_files() if path not in before] == []

        return run_twice

    def test_of_a_form_that_is_kept_and_sent_again(self, visit, stored, assert_nothing_leaks):
        site = visit()

        def send():
            tokens = site.send({"title": "", "photo": (b"x" * 1_000_000, "sea.jpg")}).tokens
            for _ in range(3):
                site.send({"title": "", **tokens})
            assert site.send({"title": "Sea", **tokens}).valid

        assert_nothing_leaks(send)

    def test_of_a_view_that_reads_what_was_kept(self, visit, stored, assert_nothing_leaks):
        def read(form):
            if isinstance(form.photo.data, FileStorage):
                assert form.photo.data.read(2) == b"wa"

        site = visit()
        site.wrong_later = read

        def send():
            tokens = site.send({"title": "", "photo": WAVES}).tokens
            site.send({"title": "", **tokens})
            site.send({"title": "", **tokens})

        assert_nothing_leaks(send)

    def test_of_a_validator_that_raises(self, visit, stored, assert_nothing_leaks):
        def fail(form, field):
            field.data.read(1)
            if "token" in request.form:
                raise RuntimeError("a bug of the developer")

        class FailingForm(FlaskForm):
            title = StringField(validators=[DataRequired()])
            photo = StoreFileField(validators=[fail])

        site = visit(FailingForm)

        def send():
            tokens = site.send({"title": "", "photo": WAVES}).tokens
            with pytest.raises(RuntimeError):
                site.send({"title": "Sea", "token": "", **tokens})
            assert site.send({"title": "Sea", **tokens}).valid

        assert_nothing_leaks(send)


PROGRAM = """
import io, json, re, sys

from flask import Flask
from flask_wtf import FlaskForm
from wtforms import StringField
from wtforms.validators import DataRequired

from flask_store import Store
from flask_store.forms import StoreFileField

app = Flask("site", instance_path=sys.argv[1])
app.config.update(SECRET_KEY="test", WTF_CSRF_ENABLED=False)
Store(app)


class PhotoForm(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photo = StoreFileField()


@app.post("/")
def add():
    form = PhotoForm()
    return {"valid": form.validate_on_submit(), "errors": form.errors, "html": form.photo()}


client = app.test_client()
for line in sys.stdin:
    data, cookie = json.loads(line)
    if cookie:
        client.set_cookie("session", cookie)
    if "file" in data:
        data["photo"] = io.BytesIO(data.pop("file").encode()), "sea.jpg"
    page = client.post("/", data=data, content_type="multipart/form-data").json
    token = re.search('value="(kept[^"]+)"', page.pop("html"))
    found = client.get_cookie("session")
    print(json.dumps([page, token and token[1], found and found.value]), flush=True)
"""


@pytest.fixture
def worker(tmp_path):
    """Return a function that starts a process that serves requests; it ends with the test."""
    running = []

    def start():
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "site")]
        process = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running.append(process)

        def send(data, cookie=None):
            process.stdin.write(json.dumps([data, cookie]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        return send

    yield start
    for process in running:
        process.stdin.close()
        process.wait(TIMEOUT)
        process.stdout.close()


def test_one_worker_keeps_another_stores_and_no_third_time_succeeds(worker, tmp_path):
    first, second = worker(), worker()

    failed, token, cookie = first({"title": "", "file": "waves"})
    assert not failed["valid"]
    stored = second({"title": "Sea", "photo": token}, cookie)[0]
    replays = [send({"title": "Sea", "photo": token}, cookie)[0] for send in (first, second)]

    assert stored == {"valid": True, "errors": {}}
    assert replays == [{"valid": False, "errors": {"photo": [GONE]}}] * 2
    files = [path for path in (tmp_path / "site").rglob("*") if path.is_file()]
    assert [(path.name, path.read_bytes()) for path in files] == [("sea.jpg", b"waves")]


def test_an_application_made_of_several_sees_each_its_own(make_app, tmp_path):
    """One key and one session cookie do not make one application's kept uploads another's."""
    one, two = make_app("one"), make_app("two")
    first, second = Site(one, PhotoForm), Site(two, PhotoForm)
    [token] = first.send({"title": "", "photo": WAVES}).tokens["photo"]
    second.client.set_cookie("session", first.client.get_cookie("session").value)

    assert second.send({"title": "Sea", "photo": token}).errors == {"photo": [GONE]}
    assert first.send({"title": "Sea", "photo": token}).valid
