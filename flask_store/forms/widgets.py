"""How a store's fields look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jinja2.filters import do_filesizeformat
from markupsafe import Markup
from wtforms.fields import Field
from wtforms.widgets import FileInput

from ..files import StoreFile
from .translation import gettext

if TYPE_CHECKING:
    from .fields import BaseStoreField
    from .keeping import KeptUpload


class StoreFileInput(FileInput):
    """Renders what a field has, and a file input: the existing files, the uploads kept for the next try, the input.

    A file that may go has a checkbox for that. While there is a file the input is not ``required``, even if a macro
    says so: the visitor may leave it at that.
    """

    def __call__(self, field: Field, **kwargs: Any) -> Markup:
        store_field: BaseStoreField = field  # type: ignore[assignment]
        kept = store_field.kept_uploads()
        shown = [
            *(_existing(store_field, file) for file in store_field._existing),
            *(_kept(store_field, upload) for upload in kept),
        ]
        if shown:
            kwargs["required"] = False
        if store_field.multiple:
            kwargs["multiple"] = True
        for name, value in _rules(field):
            kwargs.setdefault(name, value)
        file_input = super().__call__(field, data_store_file=True, **kwargs)
        return Markup(" ").join([*shown, file_input]) if shown else file_input


def _rules(field: Field) -> Iterator[tuple[str, str]]:
    """Yield the attributes by which a browser knows what the validators want."""
    for validator in field.validators:
        attributes = getattr(validator, "attributes", None)
        if attributes is None:
            continue
        rules: dict[str, str] = attributes(field)
        # The extensions that are allowed say it better than the content types that go with them.
        is_said_better = "accept" in rules and bool(field.flags.accept)
        yield from () if is_said_better else rules.items()


def _existing(field: BaseStoreField, file: StoreFile) -> Markup:
    if file.pending:
        shown = Markup('<span class="store-file">{}</span>').format(file.filename)
    else:
        shown = Markup('<a class="store-file" href="{}">{}</a>').format(file.absolute_url(), file.filename)
    if field.multiple or not field.flags.required:
        shown += _checkbox(field, str(file), file.filename)
    return Markup('<span class="store-file-existing">{}</span>').format(shown)


def _kept(field: BaseStoreField, upload: KeptUpload) -> Markup:
    token = Markup('<input type="hidden" name="{}" value="{}">').format(field.name, upload.token)
    url = upload.url
    name = Markup('<a href="{}">{}</a>').format(url, upload.filename) if url else upload.filename
    sentence = Markup.escape(gettext(field, "Kept: %(name)s, %(size)s"))
    shown = sentence.replace("%(size)s", do_filesizeformat(upload.size)).replace("%(name)s", name)
    if field.multiple or not field.flags.required or field._existing:
        shown += _checkbox(field, upload.id, upload.filename)
    return Markup('<span class="store-file-kept">{}{}</span>').format(token, shown)


def _checkbox(field: BaseStoreField, value: str, filename: str) -> Markup:
    label = gettext(field, "Remove %(name)s").replace("%(name)s", filename)
    checked = Markup(" checked") if value in field.removed else ""
    return Markup(
        ' <label class="store-file-clear">'
        '<input type="checkbox" name="{}-clear" value="{}" aria-label="{}"{}> {}'
        "</label>"
    ).format(field.name, value, label, checked, gettext(field, "Remove"))
