"""The album's pages, through Flask's test client."""

import html
import re
import socket
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from example_app.extensions import db, store
from example_app.models import Picture
from flask_store import StoreFile

on_disk = pytest.mark.parametrize("kind", ["local"], indirect=True)
on_s3 = pytest.mark.parametrize("kind", ["moto", pytest.param("ceph", marks=pytest.mark.ceph)], indirect=True)

# The package's own says in its attributes what it shows; album pages need no other.
SCRIPTS = ["/flask-store/", "/static/arrivals.js"]


@pytest.fixture
def titles(album):
    """Return a function that tells the titles in the database."""

    def read():
        with album.app_context():
            return sorted(db.session.scalars(select(Picture.title)))

    return read


@pytest.fixture
def refuse(album):
    """Return a function that makes the database refuse a kind of statement, so that a commit fails."""

    def refuse(statement):
        with album.app_context():
            db.session.execute(
                text(f"CREATE TRIGGER refuse BEFORE {statement} ON picture BEGIN SELECT RAISE(ABORT, 'refused'); END")
            )
            db.session.commit()

    return refuse


def image_urls(page):
    return [html.unescape(url) for url in re.findall(r'<img[^>]* src="([^"]+)"', page)]


class TestAlbum:
    def test_an_empty_album_invites_to_add_a_photo(self, visitor):
        page = visitor.open().text

        assert "No photos yet" in page
        assert 'href="/add"' in page

    def test_the_newest_photo_comes_first(self, visitor, photograph):
        visitor.send("/add", photograph("coffee.png"), title="Older")
        visitor.send("/add", photograph("rocket.jpg"), title="Newer")

        page = visitor.open().text

        assert page.index("Newer") < page.index("Older")

    @on_disk
    def test_no_page_asks_the_store(self, visitor, photograph, instance):
        visitor.send("/add", photograph("coffee.png"), title="Coffee")
        (instance / "uploads").rename(instance / "away")

        assert "455.8 KiB" in visitor.open("/").text
        assert visitor.open("/1/edit").status_code == 200
        assert visitor.open("/1/delete").status_code == 200

    @on_s3
    def test_a_page_of_100_photos_makes_no_request_to_s3(self, album, visitor):
        with album.app_context():
            for number in range(100):
                photo = StoreFile(f"{number}.png", "photos")
                db.session.add(Picture(title=f"Photo {number}", photo=photo, filename=photo.filename, size=1))
            db.session.commit()

        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            album.config["STORE_S3_ENDPOINT_URL"] = endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
            pages = [visitor.open(url).text for url in ("/", "/1/edit", "/1/delete")]

            assert [sum(url.startswith(endpoint) for url in image_urls(page)) for page in pages] == [100, 1, 1]
            with pytest.raises(BlockingIOError):
                listener.accept()

    def test_what_visitors_write_is_shown_as_text(self, visitor, photograph):
        visitor.send("/add", photograph("coffee.png", "<b>&'.png"), title="<script>alert(1)</script>")

        for url in ("/", "/1/edit", "/1/delete"):
            page = visitor.open(url).text
            assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
            assert "<script>" not in page
            assert "<b>" not in page

    @pytest.mark.parametrize("url", ["/", "/add", "/1/edit", "/1/delete", "/no-such-page"])
    def test_no_page_has_scripts_or_styles_of_its_own_or_loads_but_photos_from_elsewhere(
        self, visitor, photograph, url, place
    ):
        visitor.send("/add", photograph("coffee.png"), title="Coffee")

        page = visitor.open(url).text

        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
        scripts = re.findall("<script.*</script>|<script.*", page)
        assert [
            re.fullmatch(r'<script [^>]*src="(/static/arrivals.js|/flask-store/)[^>]*></script>', script)[1]
            for script in scripts
        ] == SCRIPTS
        addresses = re.findall(r'(?:src|href|action)="([^"]*)"', page)
        assert addresses
        others = [address for address in addresses if not address.startswith(place.url)]
        assert [address for address in others if not re.match(r"(/(?!/)|$)", address)] == []

    @pytest.mark.parametrize("url", ["/7/edit", "/99999999999999999999/edit", "/99999999999999999999/delete"])
    def test_a_page_that_is_not_there_leads_back_to_the_album(self, url, visitor):
        response = visitor.open(url)

        assert response.status_code == 404
        assert "There is nothing here" in response.text
        assert 'href="/"' in response.text


class TestAdd:
    def test_a_photo_is_stored_and_shown_with_its_name_and_size(self, visitor, photograph, stored):
        photo = photograph("coffee.png", "旅行の写真.png")

        page = visitor.send("/add", photo, title="Morning coffee").text

        assert "Morning coffee" in page
        assert "旅行の写真.png" in page
        assert "455.8 KiB" in page
        assert re.search(r'<img[^>]* alt="Morning coffee" loading="lazy">', page)
        assert visitor.fetch(image_urls(page)[0]) == photo.read_bytes()
        assert stored() == ["photos/旅行の写真.png"]

    def test_a_message_links_once_to_the_card_of_the_photo(self, visitor, photograph):
        visitor.send("/add", photograph("chelsea.png"), title="Chelsea")

        page = visitor.send("/add", photograph("coffee.png"), title="Tea & coffee").text

        link = re.search(r'“Tea &amp; coffee” is in the album. <a class="alert-link" href="/#([^"]+)">', page)
        card = re.search(f'<article [^>]*id="{link[1]}".*?</article>', page, re.DOTALL)
        assert "Tea &amp; coffee" in card[0]
        assert "Chelsea" not in card[0]
        assert "is in the album" not in visitor.open().text

    @on_s3
    def test_adding_a_photo_is_one_request_to_s3(self, album, visitor, photograph, place):
        requests = []
        with album.app_context():
            events = store.Provider().connect().meta.events
        events.register("before-send", lambda request, **_: requests.append((request.method, request.url)))

        visitor.send("/add", photograph("coffee.png"), title="Coffee")

        assert requests == [("PUT", f"{place.url}photos/coffee.png")]

    def test_two_photos_of_one_name_are_two_photos(self, visitor, photograph, stored):
        first = photograph("coffee.png", "photo.png").read_bytes()
        visitor.send("/add", photograph("coffee.png", "photo.png"), title="One")

        page = visitor.send("/add", photograph("chelsea.png", "photo.png"), title="Two").text

        assert page.count(">photo.png<") == 2
        newer, older = (visitor.fetch(url) for url in image_urls(page))
        assert newer != older == first
        assert len(stored()) == 2

    def test_another_type_of_file_is_refused_beside_the_field(self, visitor, tmp_path, stored, titles):
        notes = tmp_path / "notes.txt"
        notes.write_text("no photo")

        page = visitor.send("/add", notes, title="My notes").text

        assert '<div class="invalid-feedback d-block">notes.txt: Only these types of files are allowed: jpg, ' in page
        assert 'value="My notes"' in page
        assert (stored(), titles()) == ([], [])

    def test_without_a_title_nothing_is_stored(self, visitor, photograph, stored, titles):
        page = visitor.send("/add", photograph("coffee.png"), title=" ").text

        assert '<div class="invalid-feedback d-block">This field is required.</div>' in page
        assert (stored(), titles()) == ([], [])

    def test_without_a_photo_nothing_is_stored(self, visitor, titles):
        page = visitor.send("/add", title="Nothing to see").text

        assert '<div class="invalid-feedback d-block">This field is required.</div>' in page
        assert titles() == []

    def test_a_photo_above_the_limit_of_the_form_is_refused_beside_the_field(self, visitor, tmp_path, stored, titles):
        photo = tmp_path / "large.jpg"
        with photo.open("wb") as file:
            file.truncate(20 * 1024 * 1024 + 1)

        page = visitor.send("/add", photo, title="Large").text

        assert (
            '<div class="invalid-feedback d-block">large.jpg: The file is too large: at most 20.0 MiB are allowed.'
            in page
        )
        assert (stored(), titles()) == ([], [])

    def test_a_request_above_the_limit_of_the_application_gets_a_friendly_page(self, visitor, tmp_path, stored):
        photo = tmp_path / "huge.jpg"
        with photo.open("wb") as file:
            file.truncate(32 * 1024 * 1024)

        response = visitor.send("/add", photo, title="Huge")

        assert response.status_code == 413
        assert "This is too large" in response.text
        assert "32.0 MiB" in response.text
        assert 'href="/add"' in response.text
        assert stored() == []

    def test_a_form_without_csrf_token_is_refused(self, visitor, photograph, stored, titles):
        page = visitor.send_alone("/add", photograph("coffee.png"), title="Forged").text

        assert "The CSRF token is missing." in page
        assert (stored(), titles()) == ([], [])

    @on_s3
    def test_a_photo_that_s3_does_not_take_is_a_sentence_beside_the_field_and_a_line_in_the_log(
        self, album, visitor, photograph, titles, caplog
    ):
        album.config["STORE_S3_BUCKET"] = "no-such-bucket"

        page = visitor.send("/add", photograph("coffee.png"), title="Coffee").text

        sentence = "The file could not be stored."
        assert f'<div class="invalid-feedback d-block">{sentence}</div>' in page
        assert "no-such-bucket" not in page
        assert "NoSuchBucket" in caplog.text
        assert titles() == []

    @on_s3
    def test_what_the_browser_keeps_of_the_session_opens_no_photo(self, album, visitor, photograph):
        token = re.search(r'name="csrf_token" type="hidden" value="([^"]+)"', visitor.open("/add").text)[1]
        with photograph("coffee.png").open("rb") as photo:
            form = {"csrf_token": token, "title": "Coffee", "photo": photo}
            visitor.client.post("/add", data=form)

        with visitor.client.session_transaction() as session:
            assert "is in the album" in str(session["_flashes"])
            assert "X-Amz-" not in str(session)

    def test_a_failed_commit_leaves_no_file_behind(self, visitor, photograph, stored, titles, refuse):
        refuse("INSERT")

        with pytest.raises(IntegrityError):
            visitor.send("/add", photograph("coffee.png"), title="Lost")

        assert (stored(), titles()) == ([], [])


class TestSeveralPhotos:
    def test_each_is_a_picture_with_the_title_and_the_tags(self, visitor, photograph, stored):
        photos = [photograph("coffee.png"), photograph("rocket.jpg")]

        page = visitor.send("/add", photo=photos, title="Holiday", tags="sea, sun-set").text

        assert page.count("<h2") == page.count(">Holiday</h2>") == 2
        assert page.count(">sea</span>") == page.count(">sun-set</span>") == 2
        assert sorted(visitor.fetch(url) for url in image_urls(page)) == sorted(path.read_bytes() for path in photos)
        assert sorted(stored()) == ["photos/coffee.png", "photos/rocket.jpg"]

    def test_of_which_one_is_refused_are_named_and_the_others_are_kept(
        self, visitor, photograph, tmp_path, stored, kept, titles
    ):
        names = ["coffee.png", "rocket.jpg", "chelsea.png", "astronaut.png"]
        forged = tmp_path / "forged.png"
        forged.write_bytes(photograph("rocket.jpg").read_bytes())

        page = visitor.send("/add", photo=[*map(photograph, names), forged], title="Five").text

        assert '<div class="invalid-feedback d-block">forged.png: ' in page
        assert re.findall(r'aria-label="Remove ([^"]+)"', page) == names
        assert (stored(), titles(), len(kept())) == ([], [], 4)

        visitor.send_again("/add", page, title="Four")

        assert (sorted(name.rpartition("/")[2][:4] for name in stored()), titles(), kept()) == (
            ["astr", "chel", "coff", "rock"],
            ["Four"] * 4,
            [],
        )

    def test_a_failed_commit_leaves_none(self, visitor, photograph, stored, titles, refuse):
        refuse("INSERT")

        with pytest.raises(IntegrityError):
            visitor.send("/add", photo=[photograph("coffee.png"), photograph("rocket.jpg")], title="Lost")

        assert (stored(), titles()) == ([], [])


class TestAFormThatFails:
    def test_keeps_the_photo_for_the_next_try(self, visitor, photograph, stored, kept, titles):
        coffee = photograph("coffee.png")
        page = visitor.send("/add", coffee, title="Coffee", tags="not/a/tag").text
        assert "A tag is made of letters, digits and hyphens" in page
        assert re.search(r"Kept: .*coffee\.png(</a>)?, 466\.7 kB", page)
        assert (stored(), titles(), len(kept())) == ([], [], 1)

        page = visitor.send_again("/add", page, title="Coffee", tags="a-tag").text

        assert "“Coffee” is in the album" in page
        assert "coffee.png" in page
        assert "455.8 KiB" in page
        assert visitor.fetch(image_urls(page)[0]) == coffee.read_bytes()
        assert (len(stored()), titles(), kept()) == (1, ["Coffee"], [])

    def test_keeps_the_new_photo_of_a_picture_that_is_edited(self, visitor, photograph, stored, kept):
        visitor.send("/add", photograph("coffee.png"), title="Coffee")
        rocket = photograph("rocket.jpg")
        page = visitor.send("/1/edit", rocket, title="").text

        page = visitor.send_again("/1/edit", page, title="Rocket").text

        assert "rocket.jpg" in page
        assert visitor.fetch(image_urls(page)[0]) == rocket.read_bytes()
        assert (len(stored()), kept()) == (1, [])

    def test_leaves_the_old_photo_where_the_kept_one_is_taken_off(self, visitor, photograph, stored):
        coffee = photograph("coffee.png")
        visitor.send("/add", coffee, title="Coffee")
        page = visitor.send("/1/edit", photograph("rocket.jpg"), title="").text
        removed = re.search(r'name="photo-clear" type="checkbox" value="([^"]+)"', page)[1]

        page = visitor.send_again("/1/edit", page, title="Coffee", **{"photo-clear": removed}).text

        assert visitor.fetch(image_urls(page)[0]) == coffee.read_bytes()
        assert stored() == ["photos/coffee.png"]


class TestDocument:
    @pytest.fixture(autouse=True)
    def coffee(self, visitor, photograph):
        visitor.send("/add", photograph("coffee.png"), title="Coffee")

    @pytest.fixture
    def story(self, tmp_path):
        story = tmp_path / "story.txt"
        story.write_text("It was hot.\n")
        return story

    def test_goes_with_the_photo_and_is_linked(self, visitor, story, stored):
        page = visitor.send("/1/edit", title="Coffee", document=story).text

        url = html.unescape(re.search(r'href="([^"]+)">story\.txt</a>', page)[1])
        assert visitor.fetch(url) == b"It was hot.\n"
        assert stored() == ["documents/story.txt", "photos/coffee.png"]

    def test_is_replaced_by_another(self, visitor, story, tmp_path, stored):
        visitor.send("/1/edit", title="Coffee", document=story)
        other = tmp_path / "other.txt"
        other.write_text("It was cold.\n")

        visitor.send("/1/edit", title="Coffee", document=other)

        assert stored() == ["documents/other.txt", "photos/coffee.png"]

    def test_is_removed_and_the_photo_stays(self, visitor, story, stored):
        visitor.send("/1/edit", title="Coffee", document=story)

        page = visitor.send("/1/edit", title="Coffee", **{"document-clear": "documents/story.txt"}).text

        assert "story.txt" not in page
        assert stored() == ["photos/coffee.png"]

    def test_cannot_be_replaced_and_removed_at_once(self, visitor, story, stored):
        visitor.send("/1/edit", title="Coffee", document=story)

        page = visitor.send("/1/edit", title="Coffee", document=story, **{"document-clear": "documents/story.txt"}).text

        assert "Choose a new file or remove the present one, not both." in page
        assert stored() == ["documents/story.txt", "photos/coffee.png"]

    def test_a_program_that_is_called_a_document_is_refused(self, visitor, tmp_path, stored):
        program = tmp_path / "story.pdf"
        program.write_bytes(b"\x7fELF" + bytes(100))

        page = visitor.send("/1/edit", title="Coffee", document=program).text

        assert '<div class="invalid-feedback d-block">' in page
        assert stored() == ["photos/coffee.png"]

    def test_goes_when_the_picture_is_deleted(self, visitor, story, stored):
        visitor.send("/1/edit", title="Coffee", document=story)

        visitor.send("/1/delete")

        assert stored() == []


class TestEdit:
    @pytest.fixture(autouse=True)
    def coffee(self, visitor, photograph):
        photo = photograph("coffee.png")
        visitor.send("/add", photo, title="Coffee")
        return photo

    def test_the_page_shows_title_and_photo(self, visitor, coffee):
        page = visitor.open("/1/edit").text

        assert 'value="Coffee"' in page
        assert visitor.fetch(image_urls(page)[0]) == coffee.read_bytes()
        assert "required" not in re.search(r'<input[^>]*type="file"[^>]*>', page)[0]

    def test_without_another_file_the_photo_is_kept(self, visitor, coffee, stored):
        page = visitor.send("/1/edit", title="More coffee").text

        assert "More coffee" in page
        assert "coffee.png" in page
        assert "455.8 KiB" in page
        assert visitor.fetch(image_urls(page)[0]) == coffee.read_bytes()
        assert stored() == ["photos/coffee.png"]

    def test_another_photo_takes_the_place_of_the_old_one(self, visitor, photograph, stored):
        rocket = photograph("rocket.jpg")

        page = visitor.send("/1/edit", rocket, title="Rocket").text

        assert "rocket.jpg" in page
        assert "109.9 KiB" in page
        assert "coffee.png" not in page
        assert visitor.fetch(image_urls(page)[0]) == rocket.read_bytes()
        assert stored() == ["photos/rocket.jpg"]

    def test_another_photo_of_the_same_name_takes_the_place_of_the_old_one(self, visitor, photograph, stored):
        chelsea = photograph("chelsea.png", "coffee.png")

        page = visitor.send("/1/edit", chelsea, title="Chelsea").text

        assert visitor.fetch(image_urls(page)[0]) == chelsea.read_bytes()
        assert len(stored()) == 1

    def test_a_form_with_errors_still_shows_the_photo_it_was_opened_with(self, visitor, coffee, photograph, stored):
        response = visitor.send("/1/edit", photograph("rocket.jpg"), title="")

        assert response.status_code == 200
        assert "This field is required." in response.text
        assert visitor.fetch(image_urls(response.text)[0]) == coffee.read_bytes()
        assert not re.search(r"<img[^>]*rocket", response.text)
        assert stored() == ["photos/coffee.png"]

    def test_a_failed_commit_keeps_the_old_photo_and_leaves_no_new_one(
        self, visitor, photograph, stored, titles, refuse
    ):
        refuse("UPDATE")

        with pytest.raises(IntegrityError):
            visitor.send("/1/edit", photograph("rocket.jpg"), title="Rocket")

        assert (stored(), titles()) == (["photos/coffee.png"], ["Coffee"])

    def test_a_form_without_csrf_token_is_refused(self, visitor, photograph, stored, titles):
        page = visitor.send_alone("/1/edit", photograph("rocket.jpg"), title="Forged").text

        assert "The CSRF token is missing." in page
        assert (stored(), titles()) == (["photos/coffee.png"], ["Coffee"])


class TestDelete:
    @pytest.fixture(autouse=True)
    def coffee(self, visitor, photograph):
        visitor.send("/add", photograph("coffee.png"), title="Coffee")

    def test_opening_the_page_deletes_nothing(self, visitor, stored, titles):
        page = visitor.open("/1/delete").text

        assert "Delete “Coffee”?" in page
        assert (stored(), titles()) == (["photos/coffee.png"], ["Coffee"])

    def test_row_and_file_are_deleted(self, visitor, stored, titles):
        page = visitor.send("/1/delete").text

        assert "“Coffee” is deleted." in page
        assert "No photos yet" in page
        assert (stored(), titles()) == ([], [])

    def test_a_form_without_csrf_token_is_refused(self, visitor, stored, titles):
        page = visitor.send_alone("/1/delete").text

        assert "The CSRF token is missing." in page
        assert (stored(), titles()) == (["photos/coffee.png"], ["Coffee"])

    def test_a_failed_commit_keeps_the_file(self, visitor, stored, titles, refuse):
        refuse("DELETE")

        with pytest.raises(IntegrityError):
            visitor.send("/1/delete")

        assert (stored(), titles()) == (["photos/coffee.png"], ["Coffee"])

    @on_s3
    def test_a_photo_that_s3_does_not_delete_is_logged_and_does_not_keep_the_row(self, album, visitor, titles, caplog):
        album.config["STORE_S3_BUCKET"] = "no-such-bucket"

        page = visitor.send("/1/delete").text

        assert "No photos yet" in page
        assert titles() == []
        assert "photos/coffee.png is in no album, but stays in the store" in caplog.text

    @on_disk
    def test_a_file_that_cannot_be_deleted_is_logged_and_does_not_keep_the_row(
        self, visitor, instance, tmp_path: Path, titles, caplog
    ):
        photos = instance / "uploads" / "photos"
        photos.rename(tmp_path / "elsewhere")
        photos.symlink_to(tmp_path / "elsewhere")

        page = visitor.send("/1/delete").text

        assert "No photos yet" in page
        assert titles() == []
        assert "photos/coffee.png is in no album, but stays in the store" in caplog.text
