"""Save every upload of a valid form, or none.

WTForms tells each field its form, so the first store field that is processed puts *save after validate* around the
``validate`` of the outermost form, once for each form object. What the developer's own ``validate`` says counts.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from flask import current_app
from wtforms.fields import Field, FieldList, FormField
from wtforms.form import BaseForm

from ..exceptions import StoreError
from ..transaction import transaction

_MARK = "_saves_store_fields"


class SavingField(Field):
    """A field that stores its upload when its form is valid."""

    _form: Any  # since WTForms 3.3; the stubs are of 3.2

    def post_process(self, formdata: Any = None) -> None:
        super().post_process(formdata)  # type: ignore[misc]  # as above
        if self._form is not None:
            save_after_validation(self._form)

    def show_upload(self) -> None:
        """Have ``data`` be the upload again, which is what validators judge, if it was saved before."""
        raise NotImplementedError

    def save_upload(self) -> None:
        """Store the upload, if there is one, and have ``data`` be the stored file; once for each upload."""
        raise NotImplementedError


def save_after_validation(form: BaseForm) -> None:
    """Have the uploads of a form, or of the form around it, saved when its ``validate`` returns True."""
    root = form
    while (parent := getattr(root, "_parent_form", None)) is not None:
        root = parent
    if _MARK not in vars(root):
        setattr(root, _MARK, True)
        root.validate = functools.partial(_validate_and_save, root, root.validate)  # type: ignore[method-assign]


def _validate_and_save(form: BaseForm, validate: Callable[..., bool], *args: Any, **kwargs: Any) -> bool:
    if kwargs.get("extra_validators", form) is None and not _takes_extra_validators(_function_of(validate)):
        del kwargs["extra_validators"]
    for field in _saving_fields(form):
        field.show_upload()
    return bool(validate(*args, **kwargs)) and _save(form)


def _save(form: BaseForm) -> bool:
    field = None
    try:
        with transaction():
            for field in _saving_fields(form):
                field.save_upload()
    except (StoreError, OSError) as error:
        assert field is not None  # no field, no error
        current_app.logger.error("The upload of field %r could not be stored", field.name, exc_info=error)
        field.errors = [*field.errors, field.gettext("The file could not be stored. Please try again later.")]
        _collect_errors(form)
        return False
    return True


def _function_of(method: Callable[..., bool]) -> Callable[..., bool]:
    function: Callable[..., bool] = getattr(method, "__func__", method)
    return function


@functools.lru_cache(maxsize=256)
def _takes_extra_validators(validate: Callable[..., bool]) -> bool:
    """Tell an override of today from one in the old style, which takes no argument."""
    parameters = inspect.signature(validate).parameters.values()
    return any(
        parameter.name == "extra_validators" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters
    )


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
