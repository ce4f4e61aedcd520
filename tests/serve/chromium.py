"""A real Chromium that looks at the page, and a server of its own in a process."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fake_camera
import pytest

SECONDS = 60  # a busy machine is no failure
_CARD = "[...document.querySelectorAll('.class')].find(each => each.dataset.key === 'class:' + arguments[0])"


def found() -> tuple[str, str]:
    """Chromium and its driver; skips where one of them is not here."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no chromium with chromedriver here")
    return browser, driver


@dataclass(frozen=True)
class Page:
    """The page in a browser: what a person sees of it and does with it."""

    browser: Any  # selenium's
    camera: Path | None

    def open(self, url: str) -> None:
        self.browser.get(url)

    def run(self, script: str, *arguments: object) -> Any:
        return self.browser.execute_script(script, *arguments)

    def text(self, name: str) -> str:
        """Of the element with that id, as it is shown."""
        return str(self.run("return document.getElementById(arguments[0]).innerText", name)).strip()

    @property
    def answer(self) -> str:
        return self.text("answer")

    @property
    def classes(self) -> dict[str, int]:
        """The classes that are shown, and how many photos of each."""
        cards = "[...document.querySelectorAll('.class[data-key^=\"class:\"]')]"
        pairs = f"{cards}.map(card => [card.querySelector('.name').innerText, card.querySelectorAll('img').length])"
        return dict(self.run(f"return {pairs}"))

    def click(self, selector: str) -> None:
        self.until(lambda: self.run("return document.querySelector(arguments[0])?.checkVisibility()", selector))
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)
        self.browser.find_element("css selector", selector).click()

    def choose(self, text: str) -> None:
        """Click the button of the open dialog that says so."""
        script = "return [...document.querySelectorAll('dialog button')].find(each => each.innerText === arguments[0])"
        self.until(lambda: self.run(script, text)).click()

    def name(self, selector: str, name: str) -> None:
        """Type a name into a form's field, and send it."""
        field = self.browser.find_element("css selector", selector)
        field.clear()
        field.send_keys(name + "\n")

    def teach(self, name: str, pictures: list[Any]) -> None:
        """Hold the button of a class, which may be new, while the camera sees one picture after the other."""
        from selenium.webdriver import ActionChains

        if self.run(f"return {_CARD} === undefined", name):
            self.name("#new-name", name)
        self.show(pictures[0])
        self.run(f"{_CARD}.querySelector('.hold').scrollIntoView({{block: 'center'}})", name)
        before = self.photos_of(name)
        ActionChains(self.browser).click_and_hold(self.button(name)).perform()
        for picture in pictures[1:]:
            self.show(picture)
            photos = self.photos_taken()
            self.until(lambda photos=photos: self.photos_taken() > photos)
        ActionChains(self.browser).release().perform()
        self.until(lambda: self.photos_of(name) != before)

    def button(self, name: str) -> Any:
        return self.run(f"return {_CARD}.querySelector('.hold')", name)

    def photos_of(self, name: str) -> str:
        """What a class's card says of its photos."""
        script = (
            f"const card = {_CARD}; return [card.querySelectorAll('img').length, card.querySelector('.hint').innerText]"
        )
        return str(self.run(script, name))

    def photos_taken(self) -> int:
        return int(self.run("return parseInt(document.getElementById('counter').innerText) || 0"))

    def show(self, picture: Any) -> None:
        """Let the camera see it, and wait until the page does."""
        assert self.camera is not None
        fake_camera.show(self.camera, picture)
        self.browser.execute_async_script(
            "const done = arguments[0], video = document.getElementById('video');"
            "let left = 3; const next = () => --left ? video.requestVideoFrameCallback(next) : done(); next();"
        )

    def until(self, seen: Callable[[], Any]) -> Any:
        """What `seen` gives once it gives something."""
        from selenium.common.exceptions import StaleElementReferenceException

        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(StaleElementReferenceException):
                if result := seen():
                    return result
            time.sleep(0.02)
        raise AssertionError(f"not within {SECONDS} s; the page says: {self.run('return document.body.innerText')}")

    def until_answer(self, name: str) -> None:
        self.until(lambda: self.answer == name)

    def complaints(self) -> list[str]:
        """What Chromium's console has of errors, but for requests that were refused or that nobody answered."""
        severe = [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]
        return [each for each in severe if "Failed to load resource" not in each]


@contextlib.contextmanager
def opened(camera: Path | None, size: tuple[int, int] = (1200, 900)) -> Iterator[Page]:
    """A Chromium without a window that sees what the camera's file shows; None: it has no camera."""
    browser_file, driver = found()
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser_file
    flags = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    for flag in (*flags, f"--window-size={size[0]},{size[1]}", *(fake_camera.options(camera) if camera else ())):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        browser.set_page_load_timeout(SECONDS)
        browser.set_script_timeout(SECONDS)
        yield Page(browser, camera)
    finally:
        browser.quit()


@dataclass(frozen=True)
class Started:
    """A server in a process of its own."""

    url: str
    process: subprocess.Popen[str]


@contextlib.contextmanager
def started(
    bundle: Path, state: Path, port: int = 0, errors: IO[str] | None = None, more: Sequence[str] = ()
) -> Iterator[Started]:
    """`gems-edge serve`, which SIGTERM ends cleanly afterwards; what it says on stderr goes to `errors`."""
    command = [sys.executable, "-m", "gems_edge", "serve", bundle, "--state", state, "--port", port, "--threads", 1]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*map(str, command), "--json", *more], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            yield Started(json.loads(process.stdout.readline())["urls"][0], process)
        finally:
            process.terminate()
            assert process.wait(SECONDS) == 143


def port_of(url: str) -> int:
    match = re.search(r":(\d+)/", url)
    assert match
    return int(match[1])
