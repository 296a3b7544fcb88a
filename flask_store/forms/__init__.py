"""Form integration: fields whose uploads are stored once the whole form is valid, and their validators."""

from .fields import MultipleStoreFileField, StoreFileField
from .keeping import KeptUpload
from .validators import (
    ContentType,
    FileAllowed,
    FileCount,
    FileRequired,
    FileSize,
    ImageSize,
    TotalSize,
    content_type,
    file_allowed,
    file_count,
    file_required,
    file_size,
    image_size,
    total_size,
)
from .widgets import StoreFileInput

__all__ = [
    "ContentType",
    "FileAllowed",
    "FileCount",
    "FileRequired",
    "FileSize",
    "ImageSize",
    "KeptUpload",
    "MultipleStoreFileField",
    "StoreFileField",
    "StoreFileInput",
    "TotalSize",
    "content_type",
    "file_allowed",
    "file_count",
    "file_required",
    "file_size",
    "image_size",
    "total_size",
]
