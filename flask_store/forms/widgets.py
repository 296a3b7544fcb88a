"""How a store's fields look."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from wtforms.fields import Field
from wtforms.widgets import FileInput

from ..files import StoreFile


class StoreFileInput(FileInput):
    """Renders a file input, with a link to the existing file in front if there is one, or its name while it is pending.

    With an existing file the input is not ``required``, even if a macro says so: the visitor may keep it.
    """

    def __call__(self, field: Field, **kwargs: Any) -> Markup:
        existing = getattr(field, "existing", None)
        if existing is None:
            return super().__call__(field, **kwargs)
        kwargs["required"] = False
        return _shown(existing) + Markup(" ") + super().__call__(field, **kwargs)


def _shown(file: StoreFile) -> Markup:
    if file.pending:
        return Markup('<span class="store-file">{}</span>').format(file.filename)
    return Markup('<a class="store-file" href="{}">{}</a>').format(file.absolute_url(), file.filename)
