"""STORE_KEEP_LIMIT: visitors cannot fill the store with uploads of forms that fail."""

from __future__ import annotations

import io

import pytest
from flask_wtf import FlaskForm
from werkzeug.datastructures import FileStorage
from wtforms import StringField
from wtforms.validators import DataRequired

from flask_store import NotConfiguredError
from flask_store.forms import StoreFileField
from flask_store.stores import kept

# More than what an upload counts for at least, and less than what goes into temporary files.
UNIT = 100 * 1024


class PhotoForm(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photo = StoreFileField()


@pytest.fixture(params=["local", "moto"])
def make(request, make_app):
    """Return a function that makes an application, on each kind of store."""

    def make(**config):
        if request.param == "moto":
            config |= request.getfixturevalue("s3").settings(request.getfixturevalue("bucket").name)
        return with_view(make_app(request.param, **config))

    return make


def with_view(app):
    @app.post("/")
    def view():
        form = PhotoForm()
        assert not form.validate_on_submit()
        return form.photo()

    return app


@pytest.fixture
def s3(moto):
    return moto


def send(app, size):
    """Send a form that fails and return whether its upload is in the page."""
    upload = FileStorage(io.BytesIO(b"x" * size), filename="photo.bin")
    return "kept." in app.test_client().post("/", data={"photo": upload}).text


def test_what_would_exceed_it_is_not_kept(make, caplog):
    app = make(STORE_KEEP_LIMIT=3 * UNIT)

    assert [send(app, size) for size in (UNIT, 3 * UNIT, UNIT, UNIT, UNIT)] == [True, False, True, True, False]
    assert "STORE_KEEP_LIMIT" in caplog.text


def test_very_many_small_uploads_exceed_it_too(make):
    app = make(STORE_KEEP_LIMIT=3 * kept.MIN_SIZE)

    assert [send(app, 0) for _ in range(5)] == [True, True, True, False, False]


def test_what_other_processes_have_kept_counts_when_this_one_cleans(make):
    config = {"STORE_KEEP_LIMIT": 2 * UNIT}
    app, other = make(**config), make(**config)

    assert send(app, UNIT)
    assert [send(other, UNIT) for _ in range(2)] == [True, False]


def test_what_is_needed_no_more_makes_room_at_the_next_cleaning(make):
    app = make(STORE_KEEP_LIMIT=UNIT)
    assert [send(app, UNIT) for _ in range(2)] == [True, False]
    with app.app_context():
        assert app.extensions["store"].provider().clean(0) == 1

    assert send(app, UNIT)


def test_backups_count_and_what_others_have_put_there_does_not(make_app, bucket, s3):
    app = with_view(make_app("moto", STORE_KEEP_LIMIT=2 * UNIT, **s3.settings(bucket.name)))
    bucket.put_object(Key=".kept/note.txt", Body=b"x" * 2 * UNIT)
    assert send(app, kept.MIN_SIZE)
    bucket.put_object(Key=f".kept/{kept.make_id()}-back", Body=b"x" * 2 * UNIT)
    with app.app_context():
        assert app.extensions["store"].provider().clean(3600) == 0

    assert not send(app, 1)


def test_none_is_no_limit(make):
    app = make(STORE_KEEP_LIMIT=None)

    assert send(app, 4 * UNIT)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "1 GiB"])
def test_a_wrong_limit_is_refused(make_app, value):
    with pytest.raises(NotConfiguredError, match="STORE_KEEP_LIMIT must be None or a whole number of bytes"):
        make_app(STORE_KEEP_LIMIT=value)
