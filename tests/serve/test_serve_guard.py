"""Who may ask: the token, the host that a browser was sent to, the page that a request comes from, and how often."""

import stat

import pytest
from serving import photos, serving

from gems_edge.errors import UserError
from gems_edge.serve import guard, limits
from gems_edge.serve.guard import read_token

FILES = photos(2)
TOKEN = "right-token-of-this-device"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def open_phone(tmp_path):
    with serving(tmp_path) as phone:
        yield phone


@pytest.fixture
def phone(tmp_path):
    with serving(tmp_path, TOKEN) as phone:
        yield phone


def test_without_the_token_nothing_but_health_is_told(phone):
    for path in ("/", "/page.js", "/api/state", "/api/openapi.json", "/api/events", "/api/photos/1/x"):
        answer = phone.client.get(path)
        assert answer.status_code == 401 and "scan its code" in answer.json()["error"]
    assert phone.teach("a", FILES[0]).status_code == 401
    assert phone.client.get("/api/health").json()["ok"]


def test_the_token_opens_as_a_header_or_by_the_address_that_was_scanned(phone):
    assert phone.client.get("/api/state", headers=BEARER).status_code == 200
    scanned = phone.client.get(f"/?token={TOKEN}")
    assert scanned.status_code == 303 and scanned.headers["location"] == "/"
    cookie = scanned.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie
    assert phone.client.get("/").status_code == 200 and phone.teach("a", FILES[0]).status_code == 200
    assert phone.client.get("/api/state?token=x").status_code == 200  # of the page's address alone
    assert phone.client.get("/", headers={"authorization": "Basic abc"}).status_code == 200


def cookie(phone):
    return f"gems_edge_http_{phone.client.base_url.port}"


def test_a_new_code_is_scanned_with_the_cookie_of_an_old_one_or_of_another_server(phone):
    old = {"cookie": f"{cookie(phone)}=of-an-old-token; gems_edge_https_1=of-another"}
    assert phone.client.get("/", headers=old).status_code == 401
    scanned = phone.client.get(f"/?token={TOKEN}", headers=old)
    assert scanned.status_code == 303 and scanned.headers["set-cookie"].startswith(f"{cookie(phone)}={TOKEN};")


@pytest.mark.parametrize("how", ["header", "cookie", "address"])
def test_a_token_that_is_guessed(phone, how, monkeypatch):
    def guess(token):
        if how == "header":
            return phone.client.get("/api/state", headers={"authorization": f"Bearer {token}"})
        if how == "cookie":
            return phone.client.get("/api/state", headers={"cookie": f"a=b; {cookie(phone)}={token}"})
        return phone.client.get("/", params={"token": token})

    guesses = ["é", TOKEN[:-1], TOKEN + "x", "x" * 5000, *map(str, range(20))]
    statuses = [guess(token.encode() if how != "address" else token).status_code for token in guesses]
    assert statuses == [401] * 10 + [429] * 14
    assert phone.client.get("/api/state", headers=BEARER).status_code == 429
    monkeypatch.setattr(guard, "_SECONDS", 0.0)
    assert phone.client.get("/api/state", headers=BEARER).status_code == 200


def test_a_foreign_name_that_points_here_gets_nothing(open_phone):
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.0.1", "[", "", "::1:8"):
        answer = open_phone.client.get("/api/state", headers={"host": host})
        assert answer.status_code in (400, 403) and b"generation" not in answer.content
    for host in ("localhost", "LOCALHOST:80", "127.0.0.1:8765", "[::1]:8765", "localhost."):
        assert open_phone.client.get("/api/state", headers={"host": host}).status_code == 200, host


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"},
     {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": ""}],
)  # fmt: skip
def test_another_website_changes_nothing(open_phone, headers):
    open_phone.teach("a", FILES[0])
    for verb in ("undo", "predict", "forget", "teach"):
        answer = open_phone.client.post(f"/api/{verb}", headers=headers)
        assert answer.status_code == 403 and answer.json() == {"error": "another website may change nothing here"}
    assert open_phone.state["waiting"]["photos"] == 3
    preflight = open_phone.client.options("/api/undo", headers=headers)
    assert preflight.status_code in (403, 405) and "access-control-allow-origin" not in preflight.headers


def test_the_page_itself_changes(open_phone):
    own = str(open_phone.client.base_url).rstrip("/")
    headers = {"origin": own, "sec-fetch-site": "same-origin"}
    assert open_phone.client.post("/api/undo", headers=headers).status_code == 400  # nothing was taught


def test_more_requests_than_a_device_has_time_for(open_phone, monkeypatch):
    monkeypatch.setattr(limits, "AT_ONCE", 5.0)
    monkeypatch.setattr(limits, "PER_SECOND", 0.0)
    open_phone.server.config.app.app.rooms.clear()
    statuses = [open_phone.client.get("/api/health").status_code for _ in range(8)]
    assert statuses == [200] * 5 + [429] * 3


def test_no_more_listen_than_can(open_phone, monkeypatch):
    monkeypatch.setattr("gems_edge.serve.live.MOST_LISTENERS", 1)
    with open_phone.client.stream("GET", "/api/events") as first:
        lines = first.iter_lines()
        next(lines)
        assert open_phone.client.get("/api/events").status_code == 503


def test_the_tokens_file(tmp_path):
    state = tmp_path / "s.state"
    token = read_token(state)
    file = tmp_path / "s.state.token"
    assert len(token) >= 24 and read_token(state) == token and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_token(tmp_path / "other.state") != token
    for content in (b"", b"short", b"\xff" * 30, b"a b\x07" * 10):
        file.write_bytes(content)
        with pytest.raises(UserError, match="holds no token; remove it"):
            read_token(state)
