"""The page's files: nothing of other hosts, and headers that hold a browser to it."""

import re

import pytest
from serving import serving

from gems_edge.serve.app import HEADERS, PAGE

TEXTS = [file for file in sorted(PAGE.iterdir()) if file.suffix in (".html", ".css", ".js")]


@pytest.fixture(scope="module")
def phone(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("page")) as phone:
        yield phone


def test_every_file_is_served_and_asked_for_again(phone):
    assert phone.client.get("/").text == (PAGE / "index.html").read_text()
    for file in sorted(PAGE.iterdir()):
        answer = phone.client.get(f"/{file.name}")
        assert answer.content == file.read_bytes() and answer.headers["cache-control"] == "no-cache"
        again = phone.client.get(f"/{file.name}", headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code == 304 and not again.content


@pytest.mark.parametrize("path", ["/", "/api/state", "/api/nothing", "/nothing.js"])
def test_every_answer_holds_the_browser_to_this_host(phone, path):
    headers = phone.client.get(path).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy and "http" not in policy
    assert headers["cache-control"] == ("no-store" if path.startswith("/api/") else "no-cache")


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.name)
def test_the_page_names_no_other_host(file):
    text = file.read_text().replace("http://www.w3.org/2000/svg", "")  # the name of SVG, which nothing loads
    assert not re.search(r"(?:https?:)?//[\w-]+\.\w+|@import", text)
    if file.suffix == ".html":
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", text)  # the policy would refuse them


@pytest.mark.parametrize(
    "path", ["/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "//etc/passwd", "/%00", "/./../app.py"]
)
def test_nothing_beside_the_page_is_served(phone, path):
    answer = phone.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b" ")[1] in (b"400", b"404") and b'"error"' in answer
