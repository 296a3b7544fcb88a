"""Which existing file each field of a sent form shows: the page names it, and that counts more than the position.

WTForms gives the entries of a list their data by position, and renumbers them when a form that failed is shown again. A
name in the page is good only for a file that the outermost form was opened with, in the same place apart from the
numbers of list entries, and only as often as it is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from wtforms.fields import Field, FieldList, FormField

from .saving import SavingField, outermost

if TYPE_CHECKING:
    from ..files import StoreFile
    from .fields import BaseStoreField

#: What ends the name of the inputs by which a page names the existing files of a field; empty where it has none.
SUFFIX = "-existing"

# Names of a field and of what is around it, without the numbers of list entries, and the path of a file.
_Files = dict[tuple[tuple[str, ...], str], "list[StoreFile]"]


class _Place(NamedTuple):
    field: BaseStoreField
    names: tuple[str, ...]
    #: The outermost list around the field.
    list: FieldList[Any] | None


def settle(form: Any) -> None:
    """Give the fields that were just processed the existing files that the page names."""
    root = outermost(form)
    places = [place for place in _places(root) if not place.field.is_settled]
    for place in places:
        place.field.is_settled, place.field.is_in_list = True, place.list is not None
    naming = [place for place in places if place.field.named]
    opened = _opened(root) if naming else {}
    if not opened:
        return
    lists = {id(place.list) for place in naming if place.list is not None}
    for place in places:
        if place.field.named or id(place.list) in lists:
            _settle_one(place, opened)


def _settle_one(place: _Place, opened: _Files) -> None:
    taken, refused = [], []
    for path in place.field.named:
        if found := opened.get((place.names, path)):
            taken.append(found.pop())
        elif path:
            refused.append(path)
    # Outside of lists there is no doubt about the files of a field.
    place.field.settle(taken if place.list is not None else None, refused)


def _opened(root: Any) -> _Files:
    """Return the files that a form was opened with, also in entries of its lists that were not sent."""
    opened: _Files = {}
    for place in _places(root, in_full=True):
        for file in place.field.given:
            opened.setdefault((place.names, str(file)), []).append(file)
    return opened


def _places(form: Any, in_full: bool = False) -> Iterator[_Place]:
    for field in form:
        yield from _places_of(field, (field.short_name,), None, in_full)


def _places_of(field: Field, names: tuple[str, ...], around: FieldList[Any] | None, in_full: bool) -> Iterator[_Place]:
    if isinstance(field, SavingField):
        yield _Place(field, names, around)  # type: ignore[arg-type]  # there are no others
    elif isinstance(field, FormField):
        for below in field.form:
            yield from _places_of(below, (*names, below.short_name), around, in_full)
    elif isinstance(field, FieldList):
        for entry in _full(field).entries if in_full else field.entries:
            yield from _places_of(entry, names, around or field, in_full)


def _full(field: FieldList[Any]) -> FieldList[Any]:
    """Return a list with an entry for all that it was opened with, whatever was sent."""
    data: Any = field.object_data
    if not isinstance(data, Iterable) or isinstance(data, Iterator) or not (items := list(data)):
        return field  # what can be read once was read: its entries have what was sent
    full: FieldList[Any] = object.__new__(type(field))  # WTForms' own __new__, and so copy, makes unbound fields
    vars(full).update(vars(field), min_entries=0, max_entries=None)
    full.process(None, items)
    return full
