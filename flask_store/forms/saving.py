"""Save every upload of a valid form, or none.

WTForms tells each field its form, so the first store field that is processed puts *save after validate* around the
``validate`` of the outermost form, once for each form object. What the developer's own ``validate`` says counts.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flask import current_app
from werkzeug.datastructures import FileStorage
from wtforms.fields import Field, FieldList, FormField
from wtforms.form import BaseForm, Form

from ..exceptions import NotConfiguredError, StoreError
from ..files import StoreFile
from ..transaction import transaction

# Where the outermost form keeps what it saved; that it has it says that its validate saves.
_SAVED_UPLOADS = "_saved_uploads"


@dataclass(frozen=True)
class SavedUpload:
    """An upload, as it arrived, and the stored file that it became."""

    upload: FileStorage
    file: StoreFile


class SavingField(Field):
    """A field that stores its upload when its form is valid."""

    _form: Any  # since WTForms 3.3; the stubs are of 3.2

    # By name of field, shared by all store fields of a form: processing a form again makes new fields in its lists.
    _saved_uploads: dict[str, SavedUpload]

    def post_process(self, formdata: Any = None) -> None:
        super().post_process(formdata)  # type: ignore[misc]  # as above
        if self._form is not None:
            self._saved_uploads = save_after_validation(self._form)

    def show_upload(self) -> None:
        """Have ``data`` be the upload again, from its start: that is what validators judge."""
        raise NotImplementedError

    def restore_upload(self) -> None:
        """Have ``data`` be the upload as it arrived, if there is one: the form is not valid, or could not be saved."""
        raise NotImplementedError

    def save_upload(self) -> None:
        """Store the upload, if there is one, and have ``data`` be the stored file; once for each upload."""
        raise NotImplementedError


def save_after_validation(form: BaseForm) -> dict[str, SavedUpload]:
    """Have the uploads of a form, or of the form around it, saved when its ``validate`` returns True.

    :returns: What the outermost form has saved, by name of field.
    """
    root = form
    while (parent := getattr(root, "_parent_form", None)) is not None:
        root = parent
    if _SAVED_UPLOADS not in vars(root):
        setattr(root, _SAVED_UPLOADS, {})
        root.validate = functools.partial(_validate_and_save, root, root.validate)  # type: ignore[method-assign]
    saved_uploads: dict[str, SavedUpload] = getattr(root, _SAVED_UPLOADS)
    return saved_uploads


def _validate_and_save(form: BaseForm, validate: Callable[..., bool], *args: Any, **kwargs: Any) -> bool:
    if kwargs.get("extra_validators", ()) is None and not _takes_extra_validators(validate):
        del kwargs["extra_validators"]
    for field in _saving_fields(form):
        field.show_upload()
    try:
        valid = bool(validate(*args, **kwargs)) and _save(form)
    except BaseException:
        _restore_uploads(form)
        raise
    if not valid:
        _restore_uploads(form)
    return valid


def _restore_uploads(form: BaseForm) -> None:
    for field in _saving_fields(form):
        field.restore_upload()


def _takes_extra_validators(validate: Callable[..., bool]) -> bool:
    """Tell an override of today from one in the old style, which takes no argument."""
    if getattr(validate, "__func__", None) is Form.validate:
        return True  # by far the most frequent, and looking costs as much as validating
    parameters = inspect.signature(validate).parameters.values()
    return any(
        parameter.name == "extra_validators" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters
    )


def _save(form: BaseForm) -> bool:
    field = None
    try:
        with transaction():
            for field in _saving_fields(form):
                field.save_upload()
    except Exception as error:
        # What the developer has to mend is not for the visitor to try again.
        if field is None or isinstance(error, NotConfiguredError) or not isinstance(error, StoreError | OSError):
            raise
        current_app.logger.error("The upload of field %r could not be stored", field.name, exc_info=error)
        field.errors = [*field.errors, field.gettext("The file could not be stored. Please try again later.")]
        _collect_errors(form)
        return False
    return True


def _saving_fields(form: BaseForm) -> list[SavingField]:
    return [field for field in _fields_below(form) if isinstance(field, SavingField)]


def _fields_below(form: BaseForm) -> Iterator[Field]:
    for field in form:
        yield from _field_and_below(field)


def _field_and_below(field: Field) -> Iterator[Field]:
    """Yield a field after the fields in it, at any depth."""
    if isinstance(field, FormField):
        yield from _fields_below(field.form)
    elif isinstance(field, FieldList):
        for entry in field.entries:
            yield from _field_and_below(entry)
    yield field


def _collect_errors(form: BaseForm) -> None:
    """Have each list of fields tell the errors of its entries anew: it copied them while it was validated."""
    for field in _fields_below(form):
        if isinstance(field, FieldList):
            errors = [entry.errors for entry in field.entries]
            field.errors = errors if any(errors) else []
