"""Compare what a form with three ``StoreFileField``s costs with the same one with Flask-WTF's ``FileField``s.

python benchmarks/forms.py [--rounds 60] [--forms 20]

Opens and validates a form to which nothing was uploaded, and renders it, with a GET and with a POST request, in one
process; then the same without CSRF protection. In each round every kind of form has its turn, by turns in either order.
Prints microseconds of computing for a form, the median of the rounds, and the median of the ratios round by round: what
else the machine does in a round slows down both.
"""

from __future__ import annotations

import argparse
import gc
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import flask_wtf.file
from flask import Flask, session
from flask_wtf import FlaskForm
from flask_wtf.csrf import generate_csrf
from wtforms import StringField
from wtforms.validators import DataRequired

from flask_store import Store, forms

MIB = 1024 * 1024

Task = Callable[[type[FlaskForm]], object]


class Theirs(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photo = flask_wtf.file.FileField(
        validators=[flask_wtf.file.FileAllowed(["jpg", "png"]), flask_wtf.file.FileSize(5 * MIB)]
    )
    cover = flask_wtf.file.FileField(validators=[flask_wtf.file.FileAllowed(["jpg"])])
    paper = flask_wtf.file.FileField()


class Ours(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photo = forms.StoreFileField(validators=[forms.FileAllowed(["jpg", "png"]), forms.FileSize(5 * MIB)])
    cover = forms.StoreFileField(validators=[forms.FileAllowed(["jpg"])])
    paper = forms.StoreFileField()


def open_only(form_class: type[FlaskForm]) -> None:
    form_class()


def validate(form_class: type[FlaskForm]) -> None:
    form_class().validate_on_submit()


def validate_and_render(form_class: type[FlaskForm]) -> None:
    form = form_class()
    form.validate_on_submit()
    for field in form:
        field()


def post(title: str) -> dict[str, object]:
    """Return what a browser sends that chose no file."""
    nothing = {name: (io.BytesIO(), "") for name in ("photo", "cover", "paper")}
    return {"method": "POST", "data": {"title": title, "csrf_token": generate_csrf(), **nothing}}


#: What is measured: how the request is made, and what a view does with the form in it.
CASES: dict[str, tuple[Callable[[], dict[str, Any]], Task]] = {
    "GET, opened": (dict, open_only),
    "GET, and validate_on_submit": (dict, validate),
    "GET, and rendered": (dict, validate_and_render),
    "POST, validated": (partial(post, "Sea"), validate),
    "POST, refused": (partial(post, ""), validate),
    "POST, refused and rendered": (partial(post, ""), validate_and_render),
}


def microseconds(task: Task, form_class: type[FlaskForm], forms: int) -> float:
    gc.collect()
    gc.disable()
    start = time.thread_time()
    for _ in range(forms):
        task(form_class)
    seconds = time.thread_time() - start
    gc.enable()
    return seconds / forms * 1_000_000


def measure(app: Flask, rounds: int, forms: int) -> None:
    print(f"{'':30} {'FileField':>10} {'StoreFileField':>15} {'ratio':>6}")
    for name, (make_request, task) in CASES.items():
        times: dict[type[FlaskForm], list[float]] = {Theirs: [], Ours: []}
        with app.test_request_context():
            arguments = make_request()
            cookies = dict(session)
        with app.test_request_context(**arguments):
            session.update(cookies)
            for number in range(-1, rounds):
                for form_class in (Theirs, Ours) if number % 2 else (Ours, Theirs):
                    figure = microseconds(task, form_class, forms)
                    if number >= 0:  # the one before is to warm up
                        times[form_class].append(figure)
        ratio = statistics.median(ours / theirs for theirs, ours in zip(*times.values(), strict=True))
        theirs, ours = (statistics.median(figures) for figures in times.values())
        print(f"{name:30} {theirs:7.0f} µs {ours:12.0f} µs {ratio:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--forms", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for is_protected in (True, False):
            app = Flask(__name__, instance_path=folder)
            app.config.from_mapping(SECRET_KEY="key", WTF_CSRF_ENABLED=is_protected)
            Store(app)
            print("With CSRF protection" if is_protected else "\nWithout")
            measure(app, arguments.rounds, arguments.forms)


if __name__ == "__main__":
    main()
