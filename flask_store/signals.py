"""Signals (blinker): what happens to files. The sender is the application; receivers get the ``StoreFile`` as ``file``.

A receiver runs where the thing happens. For ``upload_finished`` and ``upload_failed`` that is the background, with an
application context and without a request; what it raises is logged.
"""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

#: A store has saved a file. It may still be on its way, and may yet be rolled back. A receiver that raises undoes the
#: save; its error goes to the caller.
file_saved = _signals.signal("file-saved")

#: A file that was saved in the background has arrived.
upload_finished = _signals.signal("upload-finished")

#: An upload in the background was given up for now; its bytes stay in the spool. Also gets the ``error``.
upload_failed = _signals.signal("upload-failed")
