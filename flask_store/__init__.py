"""File storage for Flask: what visitors upload, safely kept."""

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
