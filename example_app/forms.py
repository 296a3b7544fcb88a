"""The album's forms."""

from __future__ import annotations

from flask_wtf import FlaskForm
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

    def populate_obj(self, obj: Picture) -> None:
        """Also note name and size of a new photo."""
        super().populate_obj(obj)
        photo = self.photo.data
        if photo != self.photo.existing:
            obj.filename, obj.size = photo.filename, photo.size


class DeleteForm(FlaskForm):
    """Nothing but the CSRF token."""
