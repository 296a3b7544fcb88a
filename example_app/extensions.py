"""The extensions that the album uses."""

from flask_bootstrap import Bootstrap5
from flask_sqlalchemy import SQLAlchemy

from flask_store import Store

bootstrap = Bootstrap5()
db = SQLAlchemy()
store = Store()
