"""How a store's fields look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jinja2.filters import do_filesizeformat
from markupsafe import Markup
from wtforms.fields import Field
from wtforms.widgets import FileInput, html_params

from ..files import StoreFile
from .existing import SUFFIX
from .saving import SavingField
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
        if not isinstance(field, SavingField):  # somebody else's
            return super().__call__(field, **kwargs)
        store_field: BaseStoreField = field  # type: ignore[assignment]
        place = {name: kwargs[name] for name in ("form", "disabled") if kwargs.get(name)}
        unseen = [_name_existing(store_field, path, place) for path in _unseen(store_field)]
        shown = [
            *(_existing(store_field, file, place) for file in store_field._shown_files),
            *(_kept(store_field, upload, place) for upload in store_field._kept_uploads()),
        ]
        if shown:
            kwargs["required"] = False
        if store_field.multiple:
            kwargs["multiple"] = True
        for name, value in _rules(field):
            kwargs.setdefault(name, value)
        file_input = super().__call__(field, data_store_file=True, **kwargs)
        if not shown:
            unseen += [_line("store-file-default", _link(file)) for file in _default(store_field)]
        return Markup(" ").join([*shown, *unseen, file_input])


def _default(field: BaseStoreField) -> list[StoreFile]:
    file: StoreFile | None = getattr(field, "default_file", None)
    return [] if file is None else [file]


def _unseen(field: BaseStoreField) -> Sequence[str]:
    """Return what a field names beside the files that it shows."""
    if field._strangers:
        return field._strangers  # so that the form is refused until it is opened again
    # An entry of a list names that it has none: by its position it would get that of another one.
    return [""] if field.is_in_list and not field._shown_files else []


def _name_existing(field: BaseStoreField, path: str, place: dict[str, Any]) -> Markup:
    return Markup("<input {}>").format(html_params(type="hidden", name=field.name + SUFFIX, value=path, **place))


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


def _existing(field: BaseStoreField, file: StoreFile, place: dict[str, Any]) -> Markup:
    shown = _link(file)
    if field.multiple or not field.flags.required:
        shown += _checkbox(field, str(file), file.filename, place)
    return _line("store-file-existing", _name_existing(field, str(file), place) + shown)


def _link(file: StoreFile) -> Markup:
    if file.pending:
        return Markup('<span class="store-file">{}</span>').format(file.filename)
    return Markup('<a class="store-file" href="{}">{}</a>').format(file.absolute_url(), file.filename)


def _kept(field: BaseStoreField, upload: KeptUpload, place: dict[str, Any]) -> Markup:
    token = Markup("<input {}>").format(html_params(type="hidden", name=field.name, value=upload.token, **place))
    url = upload.url
    name = Markup('<a href="{}">{}</a>').format(url, upload.filename) if url else upload.filename
    sentence = Markup.escape(gettext(field, "Kept: %(name)s, %(size)s"))
    shown = sentence.replace("%(size)s", do_filesizeformat(upload.size)).replace("%(name)s", name)
    if field.multiple or not field.flags.required or field._existing:
        shown += _checkbox(field, upload.id, upload.filename, place)
    return _line("store-file-kept", token + shown)


def _checkbox(field: BaseStoreField, value: str, filename: str, place: dict[str, Any]) -> Markup:
    attributes = html_params(
        type="checkbox",
        name=f"{field.name}-clear",
        value=value,
        aria_label=gettext(field, "Remove %(name)s").replace("%(name)s", filename),
        checked=value in field._removed,
        **place,
    )
    box = Markup("<input {}> {}").format(attributes, gettext(field, "Remove"))
    return Markup(' <label class="store-file-clear ms-2 ml-2 mb-0">{}</label>').format(box)


def _line(kind: str, shown: Markup) -> Markup:
    """Return what stands on a line of its own, without style sheets too; the other classes are Bootstrap's."""
    return Markup('<span class="{} d-block text-break">{}<br></span>').format(kind, shown)
