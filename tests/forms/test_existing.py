"""The page names the existing file of each field, and that counts more than the position."""

from __future__ import annotations

import threading
from html.parser import HTMLParser
from io import BytesIO
from types import SimpleNamespace

import pytest
from flask import render_template_string, request
from flask_wtf import FlaskForm
from playwright.sync_api import expect
from werkzeug.serving import make_server
from wtforms import FieldList, Form, FormField, StringField
from wtforms.validators import DataRequired

from flask_store.forms import FileRequired, MultipleStoreFileField, StoreFileField

CHANGED = "This record was changed meanwhile. Please open the form again."


class Row(Form):
    title = StringField(validators=[DataRequired()])
    photo = StoreFileField(destination="photos")


class Rows(FlaskForm):
    rows = FieldList(FormField(Row))


class Photos(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photos = FieldList(StoreFileField(destination="photos"))


class Inputs(HTMLParser):
    """What a browser sends of a page: pairs, and the file inputs, which send an empty part where nothing was chosen."""

    def __init__(self, text):
        super().__init__()
        self.pairs, self.files = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag != "input" or "disabled" in found:
            return
        if found["type"] == "file":
            self.files.append(found["name"])
        elif found["type"] != "checkbox" or "checked" in found:
            self.pairs.append((found["name"], found.get("value", "")))


class Page:
    """A page as the visitor has it: rows can be taken out of it, and it can be sent."""

    def __init__(self, client, text):
        self.client = client
        inputs = Inputs(text)
        self.pairs, self.files = inputs.pairs, inputs.files

    def remove(self, prefix):
        self.pairs = [pair for pair in self.pairs if not pair[0].startswith(prefix)]
        self.files = [name for name in self.files if not name.startswith(prefix)]
        return self

    def set(self, name, value):
        self.pairs = [pair for pair in self.pairs if pair[0] != name] + [(name, value)]
        return self

    def add(self, name, value):
        self.pairs.append((name, value))
        return self

    def send(self, files=None, empty_parts=True):
        data = {}
        for name, value in self.pairs:
            data.setdefault(name, []).append(value)
        chosen = files or {}
        for name in {*self.files, *chosen}:
            if name in chosen:
                data.setdefault(name, []).append((BytesIO(b"new"), chosen[name]))
            elif empty_parts:
                data.setdefault(name, []).append((BytesIO(b""), ""))
        answer = self.client.post("/", data=data, content_type="multipart/form-data")
        return Page(self.client, answer.text)

    def named(self, field):
        return [value for name, value in self.pairs if name == f"{field}-existing"]


@pytest.fixture
def site(make_app):
    """Return a function that makes a site of one form on an object, and opens its page."""

    def site(form_class, obj=None, **kwargs):
        app = make_app(WTF_CSRF_ENABLED=False)
        result = SimpleNamespace(valid=None, form=None)

        @app.route("/", methods=["GET", "POST"])
        def edit():
            form = form_class(obj=obj() if callable(obj) else obj, **kwargs)
            result.valid = form.validate_on_submit()
            result.form = form
            if result.valid and obj is not None and not callable(obj):
                form.populate_obj(obj)
            return "".join(_html(form))

        result.page = Page(app.test_client(), app.test_client().get("/").text)
        return result

    return site


def _html(fields):
    for field in fields:
        if isinstance(field, FormField):
            yield from _html(field.form)
        elif isinstance(field, FieldList):
            yield from _html(field.entries)
        else:
            yield field()


def rows_of(*names):
    return [SimpleNamespace(title=name.upper(), photo=name and f"photos/{name}.png") for name in names]


def existing(form):
    return [entry.form.photo.existing and str(entry.form.photo.existing) for entry in form.rows]


class TestARowThatIsRemovedBeforeAFailure:
    def test_leaves_the_others_their_own_files(self, site):
        album = SimpleNamespace(rows=rows_of("a", "b", "c"))
        site = site(Rows, album)
        page = site.page.remove("rows-1").set("rows-2-title", "").send()
        assert not site.valid
        assert page.named("rows-1-photo") == ["photos/c.png"]

        page.set("rows-1-title", "C").send()
        assert site.valid, site.form.errors
        assert existing(site.form) == ["photos/a.png", "photos/c.png"]
        assert [(row.title, row.photo) for row in album.rows] == [("A", "photos/a.png"), ("C", "photos/c.png")]
        assert [entry.form.photo.replaced for entry in site.form.rows] == [[], []]

    def test_and_a_new_file_replaces_the_one_of_its_own_row(self, site):
        site = site(Rows, SimpleNamespace(rows=rows_of("a", "b", "c")))
        page = site.page.remove("rows-1").set("rows-2-title", "").send()
        page.set("rows-1-title", "C").send({"rows-1-photo": "new.png"})

        assert site.valid
        assert [str(file) for file in site.form.rows[1].form.photo.replaced] == ["photos/c.png"]

    def test_a_kept_upload_replaces_the_one_of_its_own_row_too(self, site):
        site = site(Rows, SimpleNamespace(rows=rows_of("a", "b", "c")))
        page = site.page.remove("rows-1").set("rows-2-title", "").send({"rows-2-photo": "new.png"})
        page.set("rows-1-title", "C").send()

        assert site.valid, site.form.errors
        photo = site.form.rows[1].form.photo
        assert str(photo.data) == "photos/new.png"
        assert [str(file) for file in photo.replaced] == ["photos/c.png"]

    def test_a_row_without_a_file_gets_none_by_its_new_position(self, site):
        album = SimpleNamespace(rows=rows_of("a", ""))
        site = site(Rows, album)
        page = site.page.remove("rows-0").send()
        assert not site.valid
        page.set("rows-0-title", "B").send()

        assert site.valid
        assert existing(site.form) == [None]
        assert [row.photo for row in album.rows] == [None]

    def test_a_removal_counts_for_the_file_of_its_own_row(self, site):
        album = SimpleNamespace(rows=rows_of("a", "b", "c"))
        site = site(Rows, album)
        page = site.page.remove("rows-1").set("rows-2-title", "").add("rows-2-photo-clear", "photos/c.png").send()
        page.set("rows-1-title", "C").send()

        assert site.valid
        assert [row.photo for row in album.rows] == ["photos/a.png", None]
        assert [str(file) for file in site.form.rows[1].form.photo.replaced] == ["photos/c.png"]

    def test_is_right_after_several_failures(self, site):
        album = SimpleNamespace(rows=rows_of("a", "b", "c", "d"))
        site = site(Rows, album)
        page = site.page.remove("rows-0").set("rows-3-title", "").send()
        page = page.remove("rows-0").send()
        assert page.named("rows-0-photo") == ["photos/c.png"]
        page.set("rows-1-title", "D").send()

        assert site.valid
        assert [row.photo for row in album.rows] == ["photos/c.png", "photos/d.png"]


class TestTheReferenceOfAPage:
    def test_beats_the_position(self, site):
        site = site(Rows, SimpleNamespace(rows=rows_of("a", "b")))
        page = site.page.set("rows-0-photo-existing", "photos/b.png").set("rows-1-photo-existing", "photos/a.png")
        page.send()

        assert site.valid
        assert existing(site.form) == ["photos/b.png", "photos/a.png"]

    def test_leaves_a_new_row_without_a_file(self, site):
        album = SimpleNamespace(rows=rows_of("a", "b", "c"))
        site = site(Rows, album)
        page = site.page.remove("rows-1").add("rows-3-title", "New").send()
        assert site.valid
        assert existing(site.form) == ["photos/a.png", "photos/c.png", None]

        page.remove("rows-2").set("rows-1-title", "").send()
        assert not site.valid

    def test_leaves_a_new_row_in_the_place_of_another_without_its_file(self, site):
        album = SimpleNamespace(rows=rows_of("a", "b"))
        site = site(Rows, album)
        site.page.remove("rows-1").add("rows-5-title", "New").send()

        assert site.valid
        assert [(row.title, row.photo) for row in album.rows] == [("A", "photos/a.png"), ("New", None)]

    def test_is_good_as_often_as_the_file_is_there(self, site):
        site = site(Rows, SimpleNamespace(rows=rows_of("a", "a", "b")))
        page = site.page.remove("rows-2").send()
        assert site.valid
        assert existing(site.form) == ["photos/a.png", "photos/a.png"]

        page.add("rows-2-title", "More").add("rows-2-photo-existing", "photos/a.png").send()
        assert not site.valid
        assert site.form.rows[2].form.photo.errors == [CHANGED]

    @pytest.mark.parametrize("forged", ["photos/else.png", "../else.png", "kept.x", "photos/thumb.png", "x" * 10_000])
    def test_to_a_file_that_the_form_was_not_opened_with_is_refused_until_it_is_opened_again(self, site, forged):
        class Both(Row):
            thumb = StoreFileField()

        class Album(FlaskForm):
            rows = FieldList(FormField(Both))

        rows = [SimpleNamespace(title="A", photo="photos/a.png", thumb="photos/thumb.png")]
        site = site(Album, SimpleNamespace(rows=rows))
        page = site.page.set("rows-0-photo-existing", forged).send()
        for _ in range(2):
            assert not site.valid
            assert site.form.errors == {"rows": [{"photo": [CHANGED]}]}
            assert site.form.rows[0].form.photo.existing is None
            page = page.send()

        assert rows[0].photo == "photos/a.png"

    def test_is_refused_outside_of_lists_too(self, site):
        row = SimpleNamespace(title="A", photo="photos/a.png")

        class One(FlaskForm):
            title = StringField()
            photo = StoreFileField()

        site = site(One, row)
        old = Page(site.page.client, "")
        old.pairs = list(site.page.pairs)
        row.photo = "photos/b.png"
        page = old.send({"photo": "new.png"})

        assert site.form.errors == {"photo": [CHANGED]}
        assert site.form.photo.existing.filename == "b.png"
        assert page.named("photo") == ["photos/b.png", "photos/a.png"]
        assert [value[:5] for name, value in page.pairs if name == "photo"] == ["kept."]

    def test_is_nothing_where_the_form_was_opened_without_a_file(self, site):
        site = site(Rows)
        site.page.add("rows-0-title", "A").add("rows-0-photo-existing", "photos/a.png").send()

        assert site.valid
        assert existing(site.form) == [None]

    def test_does_not_make_a_missing_file_good_for_a_validator(self, site):
        class Strict(Form):
            photo = StoreFileField(validators=[FileRequired()])

        class Album(FlaskForm):
            rows = FieldList(FormField(Strict))

        site = site(Album, SimpleNamespace(rows=rows_of("a", "b")))
        site.page.remove("rows-1").add("rows-1-photo", "").send()

        assert not site.valid
        assert site.form.rows[1].form.photo.existing is None

    def test_may_be_missing_everywhere_and_then_the_position_counts(self, site):
        album = SimpleNamespace(rows=rows_of("a", "b"))
        site = site(Rows, album)
        site.page.pairs = [pair for pair in site.page.pairs if not pair[0].endswith("-existing")]
        site.page.send()

        assert site.valid
        assert existing(site.form) == ["photos/a.png", "photos/b.png"]

    def test_counts_the_same_when_the_form_is_validated_again(self, site, post):
        with post({"rows-0-title": "C", "rows-0-photo-existing": "photos/c.png", "rows-1-photo-existing": "no.png"}):
            form = Rows(obj=SimpleNamespace(rows=rows_of("a", "b", "c")), meta={"csrf": False})
            assert [form.validate(), form.validate()] == [False, False]
            assert existing(form) == ["photos/c.png", None]
            form.process(request.form, obj=SimpleNamespace(rows=rows_of("no")))
            form.validate()
        assert [entry.form.photo.errors for entry in form.rows] == [[CHANGED], [CHANGED]]


class TestAClientThatSendsNoEmptyParts:
    def test_empties_no_list_of_files(self, site):
        pages = SimpleNamespace(title="A", photos=["photos/a.png", "photos/b.png"])
        site = site(Photos, pages)
        site.page.set("title", "B").send(empty_parts=False)

        assert site.valid
        assert pages.photos == ["photos/a.png", "photos/b.png"]
        assert pages.title == "B"

    def test_can_remove_one_of_them(self, site):
        pages = SimpleNamespace(title="A", photos=["photos/a.png", "photos/b.png", "photos/c.png"])
        site = site(Photos, pages)
        page = site.page.remove("photos-1").set("title", "").send(empty_parts=False)
        assert page.named("photos-1") == ["photos/c.png"]
        page.set("title", "A").send(empty_parts=False)

        assert site.valid
        assert pages.photos == ["photos/a.png", "photos/c.png"]

    def test_can_put_an_empty_entry_in_the_place_of_one(self, site):
        pages = SimpleNamespace(title="A", photos=["photos/a.png", "photos/b.png"])
        site = site(Photos, pages)
        site.page.remove("photos-1").add("photos-7-existing", "").send()

        assert site.valid
        assert pages.photos == ["photos/a.png", None]


class Shelf(Form):
    rows = FieldList(FormField(Row))


class TestAtAnyDepth:
    def test_in_lists_in_forms_in_lists_in_forms(self, site):
        class House(Form):
            shelves = FieldList(FormField(Shelf))

        class Town(FlaskForm):
            house = FormField(House)

        shelves = [SimpleNamespace(rows=rows_of("a", "b")), SimpleNamespace(rows=rows_of("c", "d"))]
        town = SimpleNamespace(house=SimpleNamespace(shelves=shelves))
        site = site(Town, town)
        page = site.page.remove("house-shelves-0-").remove("house-shelves-1-rows-0")
        page = page.set("house-shelves-1-rows-1-title", "").send()
        assert not site.valid
        page.set("house-shelves-0-rows-0-title", "D").send()

        assert site.valid, site.form.errors
        assert [[row.photo for row in shelf.rows] for shelf in town.house.shelves] == [["photos/d.png"]]

    @pytest.mark.parametrize("separator", ["-", "_"])
    def test_in_lists_of_lists(self, site, separator):
        class Lists(FlaskForm):
            title = StringField(validators=[DataRequired()])
            photos = FieldList(FieldList(StoreFileField(), separator=separator))

        pages = SimpleNamespace(title="A", photos=[["a.png"], ["b.png", "c.png"]])
        site = site(Lists, pages)
        page = site.page.remove("photos-0").remove(f"photos-1{separator}0").set("title", "").send(empty_parts=False)
        page.set("title", "A").send(empty_parts=False)

        assert site.valid, site.form.errors
        assert [[str(entry.existing) for entry in entries] for entries in site.form.photos] == [["c.png"]]

    def test_in_lists_of_fields_with_several_files(self, site):
        class Lists(FlaskForm):
            title = StringField(validators=[DataRequired()])
            photos = FieldList(MultipleStoreFileField())

        pages = SimpleNamespace(title="A", photos=[["a.png"], [], ["b.png", "b.png", "c.png"]])
        site = site(Lists, pages)
        page = site.page.remove("photos-0").set("title", "").send(empty_parts=False)
        page.set("title", "A").add("photos-1-clear", "c.png").send({"photos-1": "new.png"}, empty_parts=False)

        assert site.valid, site.form.errors
        assert pages.photos == [[], ["b.png", "b.png", "new.png"]]
        assert [str(file) for file in site.form.photos[1].replaced] == ["c.png"]

    @pytest.mark.parametrize("extra", [{}, {"max_entries": 2}, {"min_entries": 1}])
    def test_with_data_of_dicts(self, site, extra):
        class Album(FlaskForm):
            rows = FieldList(FormField(Row), **extra)

        rows = [{"title": row.title, "photo": row.photo} for row in rows_of("a", "c")]
        site = site(Album, data={"rows": rows})
        page = site.page.remove("rows-0").set("rows-1-title", "").send()
        page.set("rows-0-title", "C").send()

        assert site.valid
        assert site.form.data == {"rows": [{"title": "C", "photo": site.form.rows[0].form.photo.existing}]}
        assert existing(site.form) == ["photos/c.png"]

    def test_with_data_that_can_be_read_once_the_positions_that_were_sent_count(self, site):
        site = site(Rows, lambda: SimpleNamespace(rows=iter(rows_of("a", "b"))))
        page = site.page.set("rows-1-title", "").send()
        page.set("rows-1-title", "B").send()

        assert site.valid, site.form.errors
        assert existing(site.form) == ["photos/a.png", "photos/b.png"]

    def test_with_data_that_can_be_read_once_another_number_is_refused_and_nobodys_file_is_taken(self, site):
        site = site(Rows, lambda: SimpleNamespace(rows=iter(rows_of("a", "b", "c"))))
        page = site.page.remove("rows-1").set("rows-2-title", "").send()
        page.set("rows-1-title", "C").send()

        assert site.form.errors == {"rows": [{}, {"photo": [CHANGED]}]}
        assert existing(site.form) == ["photos/a.png", None]

    def test_in_nested_forms_with_their_own_csrf_token_and_in_a_form_with_a_prefix(self, app, post):
        class Nested(FlaskForm):
            photo = StoreFileField()

        class Album(FlaskForm):
            rows = FieldList(FormField(Nested))

        with post({"my-rows-0-photo-existing": "photos/b.png"}):
            form = Album(obj=SimpleNamespace(rows=rows_of("a", "b")), prefix="my-")
            assert existing(form) == ["photos/b.png"]

    def test_in_an_entry_that_is_added_after_the_form_was_sent(self, app, post):
        with post({"title": "A", "photos-0-existing": "photos/b.png"}):
            form = Photos(obj=SimpleNamespace(title="", photos=["photos/a.png", "photos/b.png"]))
            form.photos.append_entry("photos/c.png")
            form.photos.insert_entry(0, "photos/d.png")
            names = [str(entry.existing) for entry in form.photos]
            html = [entry() for entry in form.photos]

        assert names == ["photos/d.png", "photos/b.png", "photos/c.png"]
        assert all(f'name="photos-{i}-existing" type="hidden"' in html[i] for i in range(3))


@pytest.mark.parametrize("attribute", [{"form": "other"}, {"disabled": True}])
@pytest.mark.parametrize("sent", ["", "photos/else.png"])
def test_an_input_that_names_no_file_or_a_strange_one_is_where_the_file_input_is(post, attribute, sent):
    with post({"photos-0-existing": sent}):
        form = Photos(obj=SimpleNamespace(title="", photos=["photos/a.png"]))
        html = form.photos[0](**attribute)

    tags = [tag for tag in html.split("<") if tag.startswith("input")]
    [name] = attribute
    assert len(tags) == 2
    assert all(f" {name}" in tag for tag in tags)
    assert f'value="{sent}"' in tags[0]


PAGE = """<!doctype html><title>{{ title }}</title><form method="post" enctype="multipart/form-data">
{% for row in form.rows %}<fieldset>{{ row.form.title() }} {{ row.form.photo() }}</fieldset>{% endfor %}
<button>Save</button></form>"""

# As htmx 2 does: what a browser sends, apart from file inputs in which nothing was chosen.
SEND_WITHOUT_EMPTY_FILES = """async (form) => {
  const data = new FormData(form);
  for (const [name, value] of Array.from(data)) if (value instanceof File && !value.name) data.delete(name);
  return (await fetch("", { method: "POST", body: data })).status;
}"""


@pytest.fixture
def album_site(make_app):
    """An album of three rows at a real server's URL."""
    app = make_app(WTF_CSRF_ENABLED=False)
    album = SimpleNamespace(rows=rows_of("a", "b", "c"), replaced=None)

    @app.route("/", methods=["GET", "POST"])
    def edit():
        form = Rows(obj=album)
        title = "Edit"
        if form.validate_on_submit():
            form.populate_obj(album)
            title, album.replaced = "Saved", [str(file) for row in form.rows for file in row.form.photo.replaced]
        return render_template_string(PAGE, form=form, title=title)

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield album, f"http://127.0.0.1:{server.port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def page(browser, album_site):
    context = browser.new_context()
    page = context.new_page()
    page.goto(album_site[1])
    yield page
    context.close()


@pytest.mark.browser
def test_a_browser_that_removes_a_row_and_fails_saves_each_row_with_its_own_file(page, album_site):
    album, _ = album_site
    page.locator("fieldset").nth(1).evaluate("row => row.remove()")
    page.locator("[name=rows-2-title]").evaluate("input => { input.required = false; input.value = '' }")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("[name=rows-1-title]")).to_have_value("")
    expect(page.locator("fieldset")).to_have_count(2)
    page.locator("[name=rows-1-title]").fill("C")
    new = {"name": "new.png", "mimeType": "image/png", "buffer": b"new"}
    page.locator("[name=rows-1-photo]").set_input_files(new)
    page.get_by_role("button", name="Save").click()
    expect(page).to_have_title("Saved")

    assert [(row.title, row.photo) for row in album.rows] == [("A", "photos/a.png"), ("C", "photos/new.png")]
    assert album.replaced == ["photos/c.png"]


@pytest.mark.browser
def test_a_script_that_sends_no_empty_files_removes_none(page, album_site):
    album, _ = album_site
    page.locator("[name=rows-0-title]").fill("First")
    assert page.locator("form").evaluate(SEND_WITHOUT_EMPTY_FILES) == 200

    assert album.replaced == []
    assert [(row.title, row.photo) for row in album.rows] == [
        ("First", "photos/a.png"),
        ("B", "photos/b.png"),
        ("C", "photos/c.png"),
    ]
