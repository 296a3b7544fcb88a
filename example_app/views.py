"""The album's pages."""

from __future__ import annotations

from flask import Blueprint, Flask, current_app, flash, jsonify, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup
from sqlalchemy import select
from werkzeug.exceptions import NotFound, RequestEntityTooLarge

from flask_store import StoreError, StoreFile

from .extensions import db, store
from .forms import AddForm, DeleteForm, EditForm
from .models import MAX_ID, Picture

album = Blueprint("album", __name__)


@album.get("/")
def index() -> ResponseReturnValue:
    pictures = db.session.scalars(select(Picture).order_by(Picture.created.desc(), Picture.id.desc())).all()
    return render_template("album.html", pictures=pictures)


@album.get("/photos")
def photos() -> ResponseReturnValue:
    """Tell where the photos of some pictures are, null while one is on its way: what ``arrivals.js`` asks."""
    ids = [id for id in request.args.getlist("id", type=int) if 0 < id <= MAX_ID]
    pictures = db.session.scalars(select(Picture).where(Picture.id.in_(ids)))
    answer = jsonify(
        {picture.id: None if picture.photo.pending else picture.photo.absolute_url() for picture in pictures}
    )
    answer.cache_control.no_store = True
    return answer


@album.route("/add", methods=["GET", "POST"])
def add() -> ResponseReturnValue:
    form = AddForm()
    # Photos and rows are stored together, or none of them.
    with store.transaction():
        if form.validate_on_submit():
            pictures = form.pictures()
            db.session.add_all(pictures)
            db.session.commit()
            return shown_in_album(pictures[0])
    return render_template("add.html", form=form)


@album.route(f"/<int(max={MAX_ID}):id>/edit", methods=["GET", "POST"])
def edit(id: int) -> ResponseReturnValue:
    picture = db.get_or_404(Picture, id)
    form = EditForm(obj=picture)
    with store.transaction():
        is_saved = form.validate_on_submit()
        if is_saved:
            form.populate_obj(picture)
            db.session.commit()
    if is_saved:
        form.photo.delete_replaced()
        form.document.delete_replaced()
        return shown_in_album(picture)
    return render_template("edit.html", form=form, picture=picture)


@album.route(f"/<int(max={MAX_ID}):id>/delete", methods=["GET", "POST"])
def delete(id: int) -> ResponseReturnValue:
    picture = db.get_or_404(Picture, id)
    form = DeleteForm()
    if form.validate_on_submit():
        db.session.delete(picture)
        db.session.commit()
        for file in filter(None, [picture.photo, picture.document]):
            discard(file)
        flash(f"“{picture.title}” is deleted.", "success")
        return redirect(url_for(".index"))
    return render_template("delete.html", form=form, picture=picture)


def discard(file: StoreFile) -> None:
    """Delete a file that no row names any more; if that fails, the album is right all the same."""
    try:
        file.delete()
    except StoreError:
        current_app.logger.exception("%s is in no album, but stays in the store", file)


def shown_in_album(picture: Picture) -> ResponseReturnValue:
    message = Markup('“{}” is in the album. <a class="alert-link" href="{}">See the photo</a>')
    flash(message.format(picture.title, url_for(".index", _anchor=f"picture-{picture.id}")), "success")
    return redirect(url_for(".index"))


def not_found(error: NotFound) -> ResponseReturnValue:
    return render_template("not_found.html"), 404


def too_large(error: RequestEntityTooLarge) -> ResponseReturnValue:
    return render_template("too_large.html"), 413


def init_app(app: Flask) -> None:
    app.register_blueprint(album)
    app.register_error_handler(NotFound, not_found)
    app.register_error_handler(RequestEntityTooLarge, too_large)
