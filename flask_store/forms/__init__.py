"""Form integration: fields whose upload is stored once the whole form is valid, and their validators."""

from .fields import MultipleStoreFileField, StoreFileField
from .validators import FileAllowed, FileRequired, FileSize, file_allowed, file_required, file_size
from .widgets import StoreFileInput

__all__ = [
    "FileAllowed",
    "FileRequired",
    "FileSize",
    "MultipleStoreFileField",
    "StoreFileField",
    "StoreFileInput",
    "file_allowed",
    "file_required",
    "file_size",
]
