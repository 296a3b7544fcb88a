"""The validators on file fields of WTForms and Flask-WTF."""

from __future__ import annotations

import io

import flask_wtf.file
import pytest
import wtforms
from werkzeug.datastructures import FileStorage, MultiDict

from flask_store.forms import ContentType, FileAllowed, FileCount, FileRequired, FileSize, ImageSize, TotalSize

ONE = [wtforms.FileField, flask_wtf.file.FileField]
SEVERAL = [wtforms.MultipleFileField, flask_wtf.file.MultipleFileField]

VALIDATORS = [
    FileRequired(),
    FileAllowed(["txt"]),
    FileSize(100),
    TotalSize(100),
    FileCount(max=1),
    ContentType(["text/plain"]),
    ImageSize(max_width=9),
]


@pytest.fixture(autouse=True)
def context(app):
    """Sentences are looked up for an application."""


def validated(field_class, validator, *values):
    form_class = type("PlainForm", (wtforms.Form,), {"photo": field_class(validators=[validator])})
    form = form_class(MultiDict([("photo", value) for value in values]))
    return form.validate(), form.photo.errors


@pytest.mark.parametrize("field_class", [wtforms.FileField, wtforms.MultipleFileField])
@pytest.mark.parametrize("validator", VALIDATORS, ids=lambda validator: type(validator).__name__)
@pytest.mark.parametrize("name", ["a.txt", "C:\\fakepath\\a.txt", " "])
def test_the_text_of_a_form_without_enctype_is_refused(field_class, validator, name):
    assert validated(field_class, validator, name) == (False, ["Only the name of the file has arrived, not the file."])


@pytest.mark.parametrize("field_class", [*ONE, *SEVERAL])
def test_nothing_chosen_is_required(field_class):
    assert validated(field_class, FileRequired(), "") == (False, ["This field is required."])
    assert validated(field_class, FileRequired()) == (False, ["This field is required."])


@pytest.mark.parametrize("field_class", [*ONE, *SEVERAL])
@pytest.mark.parametrize("validator", VALIDATORS[:-1], ids=lambda validator: type(validator).__name__)
def test_a_file_is_accepted(field_class, validator):
    upload = FileStorage(io.BytesIO(b"text"), "a.txt")

    assert validated(field_class, validator, upload) == (True, [])


@pytest.mark.parametrize("field_class", ONE)
def test_the_value_that_the_form_was_opened_with_is_a_file(field_class):
    form_class = type("PlainForm", (wtforms.Form,), {"photo": field_class(validators=[FileRequired()])})

    assert form_class(data={"photo": "old.txt"}).validate()
