"""The page in a real Chromium, whose camera plays photos of glyphs."""

import io

import httpx
import numpy as np
import pytest
from chromium import opened, port_of, started
from fake_camera import open_camera
from PIL import Image

from gems_edge.data.sources import load_images

pytestmark = pytest.mark.slow(60)
THINGS = {"bang": "U+0021", "ampersand": "U+0026", "<img src=x onerror=alert(1)>": "U+0058"}
OTHER = "U+0047"


@pytest.fixture(scope="module")
def glyphs(environment):
    """`glyphs(code, count)`: photos of a character in several fonts, dark on light."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
        images = load_images("glyphs")

    def photos(code: str, count: int) -> list[np.ndarray]:
        [place] = [place for place, name in enumerate(images.classes) if str(name).startswith(code)]
        return [255 - images.images[each][..., 0] for each in np.flatnonzero(images.label == place)[:count]]

    return photos


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with opened(open_camera(tmp_path_factory.mktemp("camera") / "camera.y4m")) as page:
        yield page


@pytest.fixture
def state(tmp_path):
    return tmp_path / "shop.state"


def jpeg(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def teach(url: str, name: str, pictures: list[np.ndarray]) -> None:
    """As another phone would."""
    files = [("photo", (f"{number}.jpg", jpeg(picture))) for number, picture in enumerate(pictures)]
    httpx.post(f"{url}api/teach", data={"class": name}, files=files, timeout=120).raise_for_status()


def test_teach_recognise_correct_undo_and_start_again(page, glyphs, small_bundle, state):
    with started(small_bundle, state) as server:
        page.open(server.url)
        page.until_answer("Hello")
        for name, code in THINGS.items():
            page.teach(name, glyphs(code, 3))
        assert list(page.classes) == list(THINGS) and min(page.classes.values()) >= 3
        for name, code in THINGS.items():
            page.show(glyphs(code, 1)[0])
            page.until_answer(name)

        page.show(glyphs(OTHER, 1)[0])
        page.until(lambda: page.answer not in ("", "…"))
        page.click("#correct")
        page.until(lambda: page.run("return document.getElementById('dialog').open"))
        page.name("#dialog input", "gee")
        page.until(lambda: page.classes.get("gee") == 1)
        page.until_answer("gee")

        page.click("#undo")
        page.until(lambda: "gee" not in page.classes)
        taught = page.classes
    page.until(lambda: "does not answer" in page.text("connection"))
    with started(small_bundle, state, port_of(server.url)):
        page.until(lambda: page.text("connection") == small_bundle.stem)
        page.open(server.url)
        page.until(lambda: page.classes == taught)
        page.show(glyphs(THINGS["bang"], 1)[0])
        page.until_answer("bang")
        assert page.complaints() == []


def test_two_phones_and_the_life_of_a_class(page, glyphs, small_bundle, state):
    with started(small_bundle, state) as server:
        page.open(server.url)
        page.until_answer("Hello")
        for name in ("one", "two"):
            teach(server.url, name, glyphs(THINGS["bang"] if name == "one" else THINGS["ampersand"], 2))
        page.until(lambda: page.classes == {"one": 2, "two": 2})  # taught by another phone

        page.click("[data-key='class:one'] .name")
        page.name("#dialog input", "two")
        page.until(lambda: "There is a class two already" in page.text("refusal"))
        page.click("[data-key='class:one'] .name")
        page.name("#dialog input", "  first   thing ")
        page.until(lambda: page.classes == {"first thing": 2, "two": 2})

        page.click("[data-key='class:two'] .photo")
        page.choose("first thing")
        page.until(lambda: page.classes == {"first thing": 3, "two": 1})
        page.click("[data-key='class:first thing'] .photo")
        page.choose("Delete this photo")
        page.until(lambda: page.classes == {"first thing": 2, "two": 1})
        page.click("[data-key='class:two'] .name")
        page.choose("Forget it and its photos")
        page.until(lambda: "one class cannot be told from anything" in page.text("refusal"))
        assert page.classes == {"first thing": 2, "two": 1}
        assert page.complaints() == []


def test_the_space_bar_is_held(page, glyphs, small_bundle, state):
    from selenium.webdriver import ActionChains

    with started(small_bundle, state) as server:
        page.open(server.url)
        teach(server.url, "one", glyphs(THINGS["bang"], 1))
        page.until(lambda: "one" in page.text("classes"))
        page.name("#new-name", "two")
        page.show(glyphs(THINGS["ampersand"], 1)[0])
        page.run("arguments[0].focus()", page.button("two"))
        ActionChains(page.browser).key_down(" ").perform()
        page.until(lambda: page.photos_taken() >= 1)
        ActionChains(page.browser).key_up(" ").perform()
        page.until(lambda: page.classes.get("two", 0) >= 1)


def test_without_a_camera_a_file_is_asked_and_taught(glyphs, small_bundle, state, tmp_path):
    photo, text = tmp_path / "new.jpg", tmp_path / "text.jpg"
    photo.write_bytes(jpeg(glyphs(THINGS["ampersand"], 1)[0]))
    text.write_text("no picture")
    with started(small_bundle, state) as server, opened(None, (390, 844)) as page:
        page.open(server.url)
        page.until(lambda: "no camera here" in page.text("blind-text"))
        teach(server.url, "one", glyphs(THINGS["bang"], 1))
        field = page.browser.find_element("id", "photo-file")
        field.send_keys(str(text))
        page.until(lambda: "no picture that the browser can read: text.jpg" in page.text("refusal"))
        field.send_keys(str(photo))
        page.until(lambda: page.run("return document.getElementById('still').checkVisibility()"))
        page.name("#new-name", "two")
        page.click("[data-key='class:two'] .hold")
        page.until_answer("two")
        assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")
        assert page.complaints() == []


def test_a_camera_at_the_device_is_looked_through(glyphs, small_bundle, state, tmp_path):
    (tmp_path / "camera").mkdir()
    with (
        started(small_bundle, state, more=["--camera", str(tmp_path / "camera")]) as server,
        opened(None, (390, 844)) as page,
    ):
        for name in ("bang", "ampersand"):
            teach(server.url, name, glyphs(THINGS[name], 3))
        (tmp_path / "camera" / "1.jpg").write_bytes(jpeg(glyphs(THINGS["ampersand"], 1)[0]))
        page.until(lambda: httpx.get(f"{server.url}api/camera.jpg").status_code == 200)
        page.open(server.url)
        page.until_answer("ampersand")
        (tmp_path / "camera" / "2.jpg").write_bytes(jpeg(glyphs(THINGS["bang"], 1)[0]))
        page.until_answer("bang")
        page.name("#new-name", "third")
        page.click("[data-key='class:third'] .hold")
        page.until(lambda: page.classes.get("third") == 1 or "bang" in page.text("refusal"))
        assert page.complaints() == []
