"""File storage for Flask: a directory, any S3, or S3 in the background, behind one API."""

from .exceptions import (
    AlreadyExistsError,
    InvalidNameError,
    NotConfiguredError,
    NotFoundError,
    ServiceError,
    StoreError,
)
from .extension import Backend, Provider, Store, StoreState, store_provider
from .files import StoreFile

__all__ = [
    "AlreadyExistsError",
    "Backend",
    "InvalidNameError",
    "NotConfiguredError",
    "NotFoundError",
    "Provider",
    "ServiceError",
    "Store",
    "StoreError",
    "StoreFile",
    "StoreState",
    "store_provider",
]
