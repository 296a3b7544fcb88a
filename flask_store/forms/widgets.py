"""How a store's fields look."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from wtforms.fields import Field
from wtforms.widgets import FileInput


class StoreFileInput(FileInput):
    """Renders a file input, with a link to the existing file in front if there is one.

    With an existing file the input is not ``required``, even if a macro says so: the visitor may keep it.
    """

    def __call__(self, field: Field, **kwargs: Any) -> Markup:
        existing = getattr(field, "existing", None)
        if existing is None:
            return super().__call__(field, **kwargs)
        kwargs["required"] = False
        link = Markup('<a class="store-file" href="{}">{}</a>').format(existing.absolute_url(), existing.filename)
        return link + Markup(" ") + super().__call__(field, **kwargs)
