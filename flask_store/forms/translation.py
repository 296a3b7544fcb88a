"""Messages in the visitor's language.

What the form's own translations say counts. A sentence that they leave in English, as those of WTForms do with ours, is
looked up in the package's catalogues: in the language that the form was given, else in that of Flask-Babel.
"""

from __future__ import annotations

import functools
import gettext as catalogues
import importlib
from pathlib import Path

from flask import current_app, has_request_context
from wtforms.fields import Field

_DIRECTORY = Path(__file__).parent.parent / "translations"

_ENGLISH = catalogues.NullTranslations()


def gettext(field: Field, message: str) -> str:
    """Return a message in the language of a field's form."""
    said = str(field.gettext(message))
    return _catalogue_for(field).gettext(message) if said == message else said


def ngettext(field: Field, singular: str, plural: str, number: int) -> str:
    """Return the form of a message that goes with a number, in the language of a field's form."""
    said = str(field.ngettext(singular, plural, number))
    return _catalogue_for(field).ngettext(singular, plural, number) if said in (singular, plural) else said


def current_gettext(message: str) -> str:
    """Return a message in the language of the current request, where there is no field to ask."""
    return _current_catalogue().gettext(message)


def current_language() -> str:
    """Return the language of what :func:`current_gettext` says, as HTML names it, such as ``en``."""
    return _current_catalogue().info().get("language", "en").replace("_", "-")


def _catalogue_for(field: Field) -> catalogues.NullTranslations:
    """Return the catalogue in the language that WTForms found for the form's ``Meta.locales``, else the current one."""
    chosen = getattr(field, "_translations", None)
    language = chosen.info().get("language") if isinstance(chosen, catalogues.GNUTranslations) else None
    return _catalogue(language) if language else _current_catalogue()


def _current_catalogue() -> catalogues.NullTranslations:
    """Return the catalogue in Flask-Babel's language; English where Flask-WTF would not translate either."""
    if not has_request_context() or "babel" not in current_app.extensions:
        return _ENGLISH
    if not current_app.config.get("WTF_I18N_ENABLED", True):
        return _ENGLISH
    try:
        flask_babel = importlib.import_module("flask_babel")
    except ImportError:
        return _ENGLISH  # some other extension of that name
    return _catalogue(str(flask_babel.get_locale()))


@functools.lru_cache
def _catalogue(locale: str) -> catalogues.NullTranslations:
    """Return the catalogue of a locale such as ``de_AT``, of its language, or the empty one, which leaves English."""
    return catalogues.translation("flask_store", _DIRECTORY, [locale], fallback=True)
