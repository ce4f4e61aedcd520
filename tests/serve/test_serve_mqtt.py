"""What cameras show, told to a real broker."""

import json
import queue
import shutil
import socket
import subprocess
from contextlib import contextmanager
from functools import partial

import paho.mqtt.client as paho
import pytest
from serving import photos, serving

from gems_edge.errors import UserError
from gems_edge.serve.mqtt import Broker, broker_in, publish, topics_of

FILES = photos(2)
MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


@contextmanager
def broker(place):
    """A port of loopback at which mosquitto listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = place / "mosquitto.conf"
    configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    program = subprocess.Popen([MOSQUITTO, "-c", configuration], stderr=subprocess.PIPE, text=True)
    try:
        while "running" not in (line := program.stderr.readline()):
            assert line, "mosquitto has ended"
        yield port
    finally:
        program.kill()
        program.communicate()


@contextmanager
def listener(port):
    """What comes at the broker: a queue of topics and texts."""
    came = queue.Queue()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_connect = lambda client, *_: client.subscribe("#", 1)
    client.on_message = lambda _client, _data, message: came.put((message.topic, message.payload.decode()))
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        yield came
    finally:
        client.disconnect()
        client.loop_stop()


def next_of(came, topic):
    while True:
        name, text = came.get(timeout=120)
        if name == topic:
            return text


@needs_broker
def test_a_broker_and_home_assistant_are_told(tmp_path):
    with broker(tmp_path) as port, listener(port) as came:
        with serving(tmp_path, beside=[partial(publish, Broker("127.0.0.1", port))]) as phone:
            topics = topics_of(phone.server.served)
            found = json.loads(next_of(came, topics.discovery))
            assert next_of(came, topics.status) == "online"
            assert found["state_topic"] == found["json_attributes_topic"] == topics.answer
            assert found["availability_topic"] == topics.status and found["unique_id"] == topics.name
            assert found["value_template"] == "{{ value_json.class }}" and found["device"]["model"] == "h"
            phone.teach("tea 🍵", FILES[0])
            phone.teach("b", FILES[1])
            for _ in range(3):  # told once
                phone.ask(FILES[0][0], camera="left")
            phone.ask(FILES[1][0], camera="right")
            told = json.loads(next_of(came, topics.answer))
            assert told == {"class": "tea 🍵", "guess": "tea 🍵", "camera": "left", "generation": 1}
            assert json.loads(next_of(came, topics.answer))["class"] == "b"
        assert next_of(came, topics.status) == "offline"


@needs_broker
def test_a_broker_that_is_away_keeps_nobody_from_teaching(tmp_path):
    with serving(tmp_path, beside=[partial(publish, Broker("127.0.0.1", 9))]) as phone:
        phone.teach("a", FILES[0])
        phone.teach("b", FILES[1])
        assert phone.ask(FILES[0][0], camera="left").json()["class"] == "a"


def test_brokers_by_name():
    assert broker_in("mqtt.local") == Broker("mqtt.local", 1883) and broker_in("10.0.0.1:8000") == Broker(
        "10.0.0.1", 8000
    )
    for text in ("", ":1883", "a b", "host:x", "host:0", "host:99999", "mqtt://host"):
        with pytest.raises(UserError, match="HOST or HOST:PORT"):
            broker_in(text)
