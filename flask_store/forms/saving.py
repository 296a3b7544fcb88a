"""Save every upload of a valid form, or none.

WTForms tells each field its form, so the first store field that is processed puts *save after validate* around the
``validate`` of the outermost form, once for each form object. What the developer's own ``validate`` says counts.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from flask import current_app
from wtforms.fields import Field, FieldList, FormField
from wtforms.form import BaseForm, Form

from ..exceptions import NotConfiguredError, NotFoundError, StoreError
from ..files import StoreFile
from ..transaction import transaction
from .translation import gettext

if TYPE_CHECKING:
    from .uploads import Upload

# Where the outermost form keeps what it saved; that it has it says that its validate saves.
_SAVED_UPLOADS = "_saved_uploads"


class UploadKey(NamedTuple):
    """Identifies what a form saves, however often it is validated or processed."""

    #: Name of the field without its numbers.
    field: str
    #: Identities of the uploads that arrived.
    uploads: tuple[str | int, ...]
    #: Number of the file, where a validator made several files of several uploads.
    number: int


@dataclass(frozen=True)
class SavedUpload:
    """A stored file, and the uploads that it was made of: one, unless a validator made several files of several."""

    uploads: tuple[Upload, ...]
    file: StoreFile


class SavingField(Field):
    """A field that stores its upload when its form is valid."""

    _form: Any  # since WTForms 3.3; the stubs are of 3.2

    # Shared by all store fields of a form: processing a form again makes new fields in its lists.
    _saved_uploads: dict[UploadKey, SavedUpload]

    #: Whether the field's errors are the store's fault, and say nothing against its uploads.
    save_failed = False

    def post_process(self, formdata: Any = None) -> None:
        super().post_process(formdata)  # type: ignore[misc]  # as above
        if self._form is not None:
            self._saved_uploads = save_after_validation(self._form)

    def show_upload(self, seen: set[str]) -> None:
        """Have ``data`` be the upload again, from its start: that is what validators judge.

        :param seen: Ids of the kept uploads in fields before this one, to which it adds its own: each counts once.
        """
        raise NotImplementedError

    def restore_upload(self) -> None:
        """Have ``data`` be the upload as it arrived, if there is one: the form is not valid, or could not be saved."""
        raise NotImplementedError

    def has_upload(self) -> bool:
        """Return whether there is an upload to store."""
        raise NotImplementedError

    def save_upload(self) -> None:
        """Store the upload, if there is one, and have ``data`` be the stored file; once for each upload."""
        raise NotImplementedError


def outermost(form: Any) -> Any:
    """Return the form around a form, at any depth, or the form itself."""
    while (parent := getattr(form, "_parent_form", None)) is not None:
        form = parent
    return form


def save_after_validation(form: BaseForm) -> dict[UploadKey, SavedUpload]:
    """Have the uploads of a form, or of the form around it, saved when its ``validate`` returns True.

    :returns: What the outermost form has saved.
    """
    root = outermost(form)
    if _SAVED_UPLOADS not in vars(root):
        setattr(root, _SAVED_UPLOADS, {})
        root.validate = functools.partial(_validate_and_save, root, root.validate)
    saved_uploads: dict[UploadKey, SavedUpload] = getattr(root, _SAVED_UPLOADS)
    return saved_uploads


def _validate_and_save(form: BaseForm, validate: Callable[..., bool], *args: Any, **kwargs: Any) -> bool:
    if kwargs.get("extra_validators", ()) is None and not _takes_extra_validators(validate):
        del kwargs["extra_validators"]
    seen: set[str] = set()
    for field in _saving_fields(form):
        field.show_upload(seen)
    valid = False
    try:
        valid = bool(validate(*args, **kwargs)) and _save(form)
    finally:
        if not valid:
            for field in _saving_fields(form):
                field.restore_upload()
    return valid


def _takes_extra_validators(validate: Callable[..., bool]) -> bool:
    """Tell an override of today from one in the old style, which takes no argument."""
    if getattr(validate, "__func__", None) is Form.validate:
        return True  # by far the most frequent, and looking costs as much as validating
    parameters = inspect.signature(validate).parameters.values()
    return any(
        parameter.name == "extra_validators" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters
    )


def gone(field: Field) -> str:
    """Return what a visitor is told of a kept upload that is not there, or was never theirs."""
    return gettext(field, "The file that was kept is no longer there. Please choose it again.")


def _save(form: BaseForm) -> bool:
    fields = _saving_fields(form)
    field: SavingField | None = None
    try:
        with transaction() if any(one.has_upload() for one in fields) else nullcontext():
            for field in fields:
                field.save_upload()
    except Exception as error:
        # What the developer has to mend is not for the visitor to try again.
        if field is None or isinstance(error, NotConfiguredError) or not isinstance(error, StoreError | OSError):
            raise
        if isinstance(error, NotFoundError):
            # A kept upload can go at any moment, as when a form is sent twice at once.
            current_app.logger.info("The kept upload of field %r is gone", field.name)
            message = gone(field)
        else:
            current_app.logger.error("The upload of field %r could not be stored", field.name, exc_info=error)
            if getattr(error, "is_temporary", True):
                message = gettext(field, "The file could not be stored. Please try again later.")
            else:
                message = gettext(field, "The file could not be stored.")
            field.save_failed = True
        field.errors = [*field.errors, message]
        _collect_errors(form)
        return False
    return True


def _saving_fields(form: BaseForm) -> list[SavingField]:
    return [field for field in fields_below(form) if isinstance(field, SavingField)]


def fields_below(form: BaseForm) -> Iterator[Field]:
    """Yield every field of a form, also those in forms and lists in it, at any depth, before what they are in."""
    for field in form:
        if isinstance(field, FormField | FieldList):
            yield from _below(field)
        yield field


def _below(field: FormField[Any] | FieldList[Any]) -> Iterator[Field]:
    if isinstance(field, FormField):
        yield from fields_below(field.form)
        return
    for entry in field.entries:
        if isinstance(entry, FormField | FieldList):
            yield from _below(entry)
        yield entry


def _collect_errors(form: BaseForm) -> None:
    """Have each list of fields tell the errors of its entries anew: it copied them while it was validated."""
    for field in fields_below(form):
        if isinstance(field, FieldList):
            errors = [entry.errors for entry in field.entries]
            field.errors = errors if any(errors) else []
