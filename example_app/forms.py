"""The album's forms."""

from __future__ import annotations

import os
from typing import Any

from flask_wtf import FlaskForm
from werkzeug.datastructures import FileStorage
from wtforms import StringField
from wtforms.validators import DataRequired, Length, Optional, Regexp

from flask_store.forms import (
    ContentType,
    FileAllowed,
    FileCount,
    FileRequired,
    FileSize,
    ImageSize,
    MultipleStoreFileField,
    StoreFileField,
    TotalSize,
)

from .configuration import MIB
from .models import MAX_TAGS_LENGTH, Picture

#: What a photo must be, whether it comes alone or with others.
PHOTO = [
    FileRequired(),
    FileAllowed(["jpg", "jpeg", "png", "gif", "webp", "avif"]),
    FileSize(20 * MIB),
    ContentType(["image/*"]),
    ImageSize(max_pixels=100_000_000),
]

PHOTO_HINT = "JPEG, PNG, GIF, WebP or AVIF, up to 20 MiB."


class PictureForm(FlaskForm):
    """What can be said of any picture."""

    title = StringField("Title", [DataRequired(), Length(max=100)])
    tags = StringField(
        "Tags",
        [
            Optional(),
            Length(max=MAX_TAGS_LENGTH),
            Regexp(
                r"[\w-]+( *, *[\w-]+)*\s*$",
                message="A tag is made of letters, digits and hyphens; commas go between tags.",
            ),
        ],
        description="Such as: holiday, sea",
    )

    def note_uploads(self, uploads: list[Any]) -> None:
        """Note what new photos are called and how large they are, now that nobody has to be asked.

        The store may give them other names, and to measure what is stored takes a request.
        """
        self.noted = [
            (upload.filename, upload.stream.seek(0, os.SEEK_END))
            for upload in uploads
            if isinstance(upload, FileStorage)
        ]


class AddForm(PictureForm):
    """Adds pictures: one for each photo."""

    photo = MultipleStoreFileField(
        "Photos",
        [*PHOTO, FileCount(max=10), TotalSize(30 * MIB)],
        description=f"{PHOTO_HINT} Ten at most, and 30 MiB together.",
        destination="photos",
    )

    def validate_photo(self, field: MultipleStoreFileField) -> None:
        self.note_uploads(field.data)

    def pictures(self) -> list[Picture]:
        """Return a row for each photo of the valid form."""
        return [
            Picture(title=self.title.data, tags=self.tags.data, photo=photo, filename=filename, size=size)
            for photo, (filename, size) in zip(self.photo.data, self.noted, strict=True)
        ]


class EditForm(PictureForm):
    """Edits a picture: its photo is kept where no other is chosen, and a document may go with it."""

    photo = StoreFileField("Photo", PHOTO, description=PHOTO_HINT, destination="photos")
    document = StoreFileField(
        "Document",
        [FileAllowed(["pdf", "txt"]), FileSize(5 * MIB), ContentType(["application/pdf", "text/plain"])],
        description="The story of the photo: PDF or text, up to 5 MiB.",
        destination="documents",
    )

    def validate_photo(self, field: StoreFileField) -> None:
        self.note_uploads([field.data])

    def populate_obj(self, obj: Picture) -> None:
        """Also set name and size of a new photo."""
        super().populate_obj(obj)
        if self.noted:
            obj.filename, obj.size = self.noted[0]


class DeleteForm(FlaskForm):
    """Nothing but the CSRF token."""
