"""Validators may close the stream of an upload, or put another one in its place: one file comes of one upload."""

from __future__ import annotations

import csv
import gc
import io
import zipfile

import pytest
from flask_wtf import FlaskForm
from werkzeug.datastructures import FileStorage
from wtforms import StringField
from wtforms.validators import InputRequired, ValidationError

from flask_store.forms import StoreFileField

SMALL, LARGE = b"name,size\r\n", b"name,size\r\n" * 100_000


def reads_text(form, field):
    """As everybody reads CSV: the wrapper closes the stream when it is collected."""
    field.data.stream.seek(0)
    assert next(csv.reader(io.TextIOWrapper(field.data.stream))) == ["name", "size"]
    gc.collect()


def closes(form, field):
    field.data.close()


def closes_in_a_block(form, field):
    with field.data.stream as stream:
        stream.read(1)


def looks_for_a_zip(form, field):
    assert not zipfile.is_zipfile(field.data.stream)


def replaces_the_stream(form, field):
    field.data.stream = io.BytesIO(b"other " + field.data.read())


def replaces_the_upload(form, field):
    field.data = FileStorage(io.BytesIO(b"other " + field.data.read()), field.data.filename)


def refuses_the_second(form, field):
    form.calls = getattr(form, "calls", 0) + 1
    if form.calls == 2:
        raise ValidationError("not now")


def form_with(*validators):
    return type(
        "StreamForm",
        (FlaskForm,),
        {
            "title": StringField(validators=[InputRequired()]),
            "table": StoreFileField(validators=list(validators)),
        },
    )


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("validator", [reads_text, closes, closes_in_a_block, looks_for_a_zip])
def test_a_stream_that_a_validator_closes_is_stored_whole(post, stored, validator, content):
    with post({"title": "Table", "table": (content, "a.csv")}):
        assert form_with(validator, validator)().validate_on_submit()

    assert stored() == {"a.csv": content}


@pytest.mark.parametrize("validator", [reads_text, closes])
def test_a_stream_that_a_validator_closes_is_kept_for_the_next_try(post, validator):
    with post({"title": "", "table": (LARGE, "a.csv")}):
        form = form_with(validator)()
        assert not form.validate_on_submit()

        assert form.table.kept.size == len(LARGE)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("validator", [replaces_the_stream, replaces_the_upload])
def test_three_validations_of_a_replaced_upload_make_one_file(post, stored, validator, content):
    with post({"title": "Table", "table": (content, "a.csv")}):
        form = form_with(validator)()
        assert form.validate_on_submit()
        file = form.table.data
        assert form.validate_on_submit()
        assert form.validate_on_submit()

        assert form.table.data == file
    assert stored() == {"a.csv": b"other " + content}


def test_a_form_that_is_valid_again_has_the_same_file(post, stored):
    with post({"title": "Table", "table": (SMALL, "a.csv")}):
        form = form_with(replaces_the_stream, refuses_the_second)()
        assert form.validate_on_submit()
        file = form.table.data
        assert not form.validate_on_submit()
        assert form.validate_on_submit()

        assert form.table.data == file
    assert stored() == {"a.csv": b"other " + SMALL}
