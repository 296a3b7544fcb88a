"""A small photo album: Flask-Store, Flask-SQLAlchemy, Flask-WTF and Bootstrap-Flask at work together."""

from __future__ import annotations

import os

from flask import Flask

from . import configuration, models, views
from .extensions import bootstrap, db, store


def create_app(config_name: str = "local", instance_path: str | None = None) -> Flask:
    """Return the album.

    :param config_name: One of the names in ``configuration.py``.
    :param instance_path: Absolute path of the folder that keeps the database, the photos and the secret key; by
        default ``instance`` beside this package.
    :raises ValueError: If there is no such configuration.
    :raises NotConfiguredError: If something is missing that it wants, such as a variable of the environment.
    """
    settings = configuration.load(config_name)
    app = Flask(__name__, instance_path=instance_path)
    os.makedirs(app.instance_path, exist_ok=True)
    app.config.from_mapping(settings, SECRET_KEY=configuration.secret_key(app.instance_path))

    bootstrap.init_app(app)
    db.init_app(app)
    store.init_app(app)
    views.init_app(app)
    with app.app_context():
        models.create_tables()
    return app
