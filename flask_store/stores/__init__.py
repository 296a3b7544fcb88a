"""The stores. Each is found by the dotted name in ``STORE_PROVIDER``; here is only what they share."""

from .base import BaseStore, FileStat

__all__ = ["BaseStore", "FileStat"]
