"""Cameras at the board: a folder, an address that gives one picture, and an MJPEG stream, each real."""

import base64
import importlib.util
import json
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from serving import photos, serving

from gems_edge.errors import UserError
from gems_edge.serve import cameras, watching
from gems_edge.serve.cameras import check_camera
from gems_edge.serve.watching import watch

FILES = photos(2, 4)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(cameras, "PAUSE", 0.01)
    monkeypatch.setattr(watching, "AGAIN", 0.05)


class Camera:
    """What a camera of the network shows now; `gone`: its streams end."""

    def __init__(self):
        self.picture, self.gone, self.asked = FILES[0][3], False, []


@contextmanager
def camera_of_the_network():
    camera = Camera()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            camera.asked.append((self.path, self.headers["authorization"]))
            self.send_response(503 if camera.gone else 200)
            stream = self.path.startswith("/stream")
            self.send_header("content-type", 'multipart/x-mixed-replace; boundary="--x"' if stream else "image/png")
            self.end_headers()
            while not camera.gone:
                if not stream:
                    self.wfile.write(camera.picture)
                    return
                head = f"--x\r\nContent-Type: image/png\r\nContent-Length: {len(camera.picture)}\r\n\r\n"
                self.wfile.write(head.encode() + camera.picture + b"\r\n")
                time.sleep(0.01)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield camera, f"127.0.0.1:{server.server_port}"
    finally:
        camera.gone = True
        server.shutdown()
        thread.join()
        server.server_close()


def teach_two(phone):
    phone.teach("a", FILES[0][:3])
    phone.teach("b", FILES[1][:3])


def wait_for(phone, wanted, camera="board"):
    """The first event that is wanted."""
    with phone.client.stream("GET", "/api/events") as told:
        for line in told.iter_lines():
            if line.startswith("data: ") and wanted(event := json.loads(line[6:])):
                assert event["camera"] == camera
                return event


@pytest.mark.parametrize("path", ["/stream", "/snapshot.png"])
def test_a_camera_of_the_network(tmp_path, path):
    with (
        camera_of_the_network() as (camera, host),
        serving(tmp_path, beside=[partial(watch, f"http://me:se%20cret@{host}{path}")]) as phone,
    ):
        teach_two(phone)
        answer = wait_for(phone, lambda event: event.get("class") == "a")
        assert answer["steady"]["class"] and answer["guess"] == "a" and answer["ms"] > 0
        seen = phone.client.get("/api/camera.jpg")
        assert seen.content == FILES[0][3] and seen.headers["content-type"] == "image/png"
        camera.picture = FILES[1][3]
        wait_for(phone, lambda event: event["event"] == "answer" and event["steady"]["class"] == "b")
        assert camera.asked[0] == (path, f"Basic {base64.b64encode(b'me:se cret').decode()}")
        camera.gone = True
        told = wait_for(phone, lambda event: event["event"] == "camera")
        assert told["error"].startswith("the camera gives no picture (")
        assert phone.ask(FILES[0][0]).json()["class"] == "a"  # a phone's camera still is answered
        camera.gone = False
        assert wait_for(phone, lambda event: event["event"] == "answer")["class"] == "b"


def test_a_folder_that_a_camera_writes_to(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "old.png").write_bytes(FILES[0][3])
    with serving(tmp_path, beside=[partial(watch, str(folder))]) as phone:
        teach_two(phone)
        assert phone.client.get("/api/camera.jpg").status_code == 404
        writing = threading.Thread(target=lambda: (time.sleep(0.1), (folder / "new.png").write_bytes(FILES[1][3])))
        writing.start()
        assert wait_for(phone, lambda event: event["event"] == "answer")["class"] == "b"
        writing.join()
        (tmp_path / "secret").write_text("no picture")
        (folder / "link.png").symlink_to(tmp_path / "secret")
        (folder / "half.png").write_bytes(FILES[0][3][:50])
        time.sleep(3 * cameras.PAUSE)
        assert phone.client.get("/api/camera.jpg").content == FILES[1][3]
        (folder / "other.png").write_bytes(FILES[0][3])
        assert wait_for(phone, lambda event: event["event"] == "answer")["class"] == "a"


def test_a_camera_that_is_none_yet(tmp_path):
    with serving(tmp_path, beside=[partial(watch, "http://127.0.0.1:9/")]) as phone:
        told = wait_for(phone, lambda event: event["event"] == "camera")
        assert "Connection refused" in told["error"] and phone.client.get("/api/camera.jpg").status_code == 404


@pytest.mark.parametrize("where", ["absent", "ftp://host/a", "http://", "-1", ""])
def test_what_is_no_camera(where):
    with pytest.raises(UserError, match="--camera takes a number"):
        check_camera(where)


@pytest.mark.skipif(importlib.util.find_spec("cv2") is not None, reason="OpenCV is installed")
def test_a_device_without_opencv():
    with pytest.raises(UserError, match="OpenCV, which is not installed; pip install opencv-python-headless"):
        check_camera("0")
