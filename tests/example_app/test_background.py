"""The album's pages where photos go to S3 in the background, through Flask's test client: without JavaScript."""

import html
import re

import pytest
from s3_servers import wait_until
from sqlalchemy import select

from example_app.extensions import db, store
from example_app.models import Picture

pytestmark = pytest.mark.parametrize("kind", ["background"], indirect=True)

ON_ITS_WAY = "On its way to the store…"

# Seconds until a photo must have arrived.
PATIENCE = 30


@pytest.fixture
def arrive(album, proxy):
    """Return a function that lets the photos through to S3, and returns when all have arrived."""

    def arrive():
        proxy.release()
        with album.app_context():
            for photo in db.session.scalars(select(Picture.photo)):
                photo.wait(PATIENCE)
            store.Provider().uploads.wait_until_idle(PATIENCE)

    yield arrive
    arrive()


@pytest.fixture(autouse=True)
def held(proxy, arrive):
    """Nothing reaches S3 until a test lets it through."""
    proxy.hold()


def images(page):
    """Return the URLs of the photos that a page shows."""
    shown = re.sub("<template>.*?</template>", "", page, flags=re.DOTALL)
    return [html.unescape(url) for url in re.findall(r'<img[^>]* src="([^"]*)"', shown)]


def test_a_photo_on_its_way_says_so_where_it_will_be_and_a_reload_shows_it(visitor, photograph, arrive):
    photo = photograph("coffee.png", "旅行の写真.png")

    page = visitor.send("/add", photo, title="Coffee").text

    assert "“Coffee” is in the album." in page
    assert "455.8 KiB" in page
    assert ">旅行の写真.png<" in page
    assert re.search(f'<div data-pending="1" aria-live="polite">.*{ON_ITS_WAY}.*<template>', page, re.DOTALL)
    assert images(page) == []

    arrive()

    page = visitor.open().text
    assert ON_ITS_WAY not in page
    assert visitor.fetch(images(page)[0]) == photo.read_bytes()


@pytest.mark.parametrize("url", ["/1/edit", "/1/delete"])
def test_the_pages_about_one_photo_say_that_it_is_on_its_way(url, visitor, photograph, arrive):
    photo = photograph("coffee.png")
    visitor.send("/add", photo, title="Coffee")

    page = visitor.open(url).text

    assert ON_ITS_WAY in page
    assert images(page) == []

    arrive()

    page = visitor.open(url).text
    assert ON_ITS_WAY not in page
    assert visitor.fetch(images(page)[0]) == photo.read_bytes()


def test_who_asks_for_photos_learns_which_are_on_their_way_and_where_the_others_are(visitor, photograph, proxy, arrive):
    coffee = photograph("coffee.png")
    visitor.send("/add", coffee, title="Coffee")
    arrive()
    proxy.hold()
    visitor.send("/add", photograph("chelsea.png"), title="Chelsea")
    visitor.send("/add", photograph("rocket.jpg"), title="Rocket")

    answer = visitor.open("/photos?id=1&id=2")
    nothing = visitor.open("/photos?id=0&id=4&id=-1&id=99999999999999999999&id=one&id=")

    assert list(answer.json) == ["1", "2"]
    assert answer.json["2"] is None
    assert nothing.json == {}
    # What is in it changes, and the URL is for the one who asked.
    assert answer.headers["Cache-Control"] == "no-store"
    arrive()
    assert visitor.fetch(answer.json["1"]) == coffee.read_bytes()


def test_neither_pages_nor_questions_wait_for_s3_or_ask_it(album, visitor, photograph, arrive):
    visitor.send("/add", photograph("coffee.png"), title="Coffee")
    arrive()
    requests = []
    with album.app_context():
        events = store.Provider().connect().meta.events
    events.register("before-send", lambda request, **_: requests.append(request.url))

    pages = [visitor.open(url) for url in ("/", "/1/edit", "/1/delete", "/photos?id=1")]

    assert [page.status_code for page in pages] == [200] * 4
    assert requests == []


def test_a_photo_reaches_s3_in_one_request(album, visitor, photograph, arrive):
    requests = []
    with album.app_context():
        events = store.Provider().connect().meta.events
    events.register("before-send", lambda request, **_: requests.append(request.method))

    visitor.send("/add", photograph("coffee.png"), title="Coffee")
    arrive()

    assert requests == ["PUT"]


def test_a_photo_that_is_deleted_on_its_way_does_not_stay_at_s3(visitor, photograph, proxy, arrive, stored):
    visitor.send("/add", photograph("coffee.png"), title="Coffee")
    wait_until(lambda: proxy.received > 0)

    page = visitor.send("/1/delete").text

    assert "No photos yet" in page
    assert visitor.open("/photos?id=1").json == {}
    arrive()
    assert stored() == []


def test_a_photo_that_takes_the_place_of_one_on_its_way_is_the_one_that_stays(visitor, photograph, arrive, stored):
    visitor.send("/add", photograph("coffee.png"), title="Coffee")
    chelsea = photograph("chelsea.png")

    page = visitor.send("/1/edit", chelsea, title="Chelsea").text

    assert ON_ITS_WAY in page
    arrive()
    assert visitor.fetch(images(visitor.open().text)[0]) == chelsea.read_bytes()
    assert len(stored()) == 1


def test_the_spool_is_in_the_instance_folder_for_the_eyes_of_its_owner(visitor, photograph, instance):
    photo = photograph("coffee.png")

    visitor.send("/add", photo, title="Coffee")

    spooled = [path for path in (instance / "spool").glob("*/*") if path.read_bytes() == photo.read_bytes()]
    assert len(spooled) == 1
    assert (instance / "spool").stat().st_mode & 0o777 == 0o700


def test_what_visitors_write_is_shown_as_text(visitor, photograph):
    visitor.send("/add", photograph("coffee.png"), title='"><script>alert(1)</script>')

    page = visitor.open().text

    assert page.count("&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;") >= 2
    assert "<script>" not in page
