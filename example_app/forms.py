"""The album's forms."""

from __future__ import annotations

import os

from flask_wtf import FlaskForm
from werkzeug.datastructures import FileStorage
from wtforms import StringField
from wtforms.validators import DataRequired, Length

from flask_store.forms import FileAllowed, FileRequired, FileSize, StoreFileField

from .configuration import MIB
from .models import Picture


class PictureForm(FlaskForm):
    """Adds a picture, or edits the one that it is opened with: its photo is kept where no other is chosen."""

    title = StringField("Title", [DataRequired(), Length(max=100)])
    photo = StoreFileField(
        "Photo",
        [FileRequired(), FileAllowed(["jpg", "jpeg", "png", "gif", "webp", "avif"]), FileSize(20 * MIB)],
        description="JPEG, PNG, GIF, WebP or AVIF, up to 20 MiB.",
        destination="photos",
    )

    def validate_photo(self, field: StoreFileField) -> None:
        """Note what a new photo is called and how large it is, now that nobody has to be asked.

        The store may give it another name, and to measure what is stored takes a request.
        """
        if isinstance(field.data, FileStorage):
            self.filename, self.size = field.data.filename, field.data.stream.seek(0, os.SEEK_END)

    def populate_obj(self, obj: Picture) -> None:
        """Also set name and size of a new photo."""
        super().populate_obj(obj)
        if self.photo.data != self.photo.existing:
            obj.filename, obj.size = self.filename, self.size


class DeleteForm(FlaskForm):
    """Nothing but the CSRF token."""
