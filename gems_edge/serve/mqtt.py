"""What cameras show, for Home Assistant and other listeners of an MQTT broker.

Home Assistant finds the sensor by itself: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

import json
import logging
import os
import re
import socket
import time
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from gems_edge import __version__
from gems_edge.errors import UserError
from gems_edge.serve.live import Event
from gems_edge.serve.served import Served

_AGAIN = 10.0  # seconds after which an answer that has not changed is told again
_KEEPALIVE = 30  # seconds in which a broker hears of us, or tells others that we are gone
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Broker:
    host: str
    port: int = 1883


@dataclass(frozen=True)
class Topics:
    """Of one server, named for its machine and its state."""

    name: str

    @property
    def discovery(self) -> str:
        return f"homeassistant/sensor/{self.name}/config"

    @property
    def answer(self) -> str:
        return f"gems-edge/{self.name}/answer"

    @property
    def status(self) -> str:
        return f"gems-edge/{self.name}/status"


def broker_in(text: str) -> Broker:
    """HOST or HOST:PORT; UserError for anything else."""
    host, _, port = text.partition(":")
    if not re.fullmatch(r"[\w.-]+", host) or not re.fullmatch(r"\d{0,5}", port) or not 0 < int(port or 1883) < 65536:
        raise UserError(f"--mqtt takes HOST or HOST:PORT of a broker, not {text!r}")
    return Broker(host, int(port or 1883))


def topics_of(served: Served) -> Topics:
    name = f"{socket.gethostname()}_{served.classroom.state.resolve().stem}".lower()
    return Topics(re.sub(r"[^a-z0-9]+", "_", name).strip("_"))


async def publish(broker: Broker, served: Served) -> None:
    """Tell the broker what cameras show, until the server ends. A broker that is away is tried again and again."""
    topics, before, at = topics_of(served), None, 0.0
    client = _connecting(served, broker, topics)
    try:
        async with served.live.listening() as told:
            async for event in told:
                if event is None or event["event"] != "answer":
                    continue
                now, answer = time.monotonic(), _answer(event)
                shown = (answer["camera"], answer["class"])
                if shown != before or now - at > _AGAIN:
                    client.publish(topics.answer, json.dumps(answer, ensure_ascii=False), retain=True)
                    before, at = shown, now
    finally:
        if client.is_connected():
            client.publish(topics.status, "offline", qos=1, retain=True).wait_for_publish(1)
        client.disconnect()
        client.loop_stop()


def _connecting(served: Served, broker: Broker, topics: Topics) -> paho.Client:
    """A client that connects, again after each loss, in a thread of its own."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"gems-edge-{topics.name}")
    user = os.environ.get("GEMS_EDGE_MQTT_USER")
    if user:
        client.username_pw_set(user, os.environ.get("GEMS_EDGE_MQTT_PASSWORD"))
    client.will_set(topics.status, "offline", qos=1, retain=True)
    discovery = json.dumps(_discovery(served, topics))

    def connected(client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            _log.error("the MQTT broker %s refuses: %s", broker.host, reason)
            return
        client.publish(topics.discovery, discovery, qos=1, retain=True)
        client.publish(topics.status, "online", qos=1, retain=True)

    client.on_connect = connected
    client.connect_async(broker.host, broker.port, _KEEPALIVE)
    client.loop_start()
    return client


def _answer(event: Event) -> Event:
    steady = event["steady"]
    return {
        "class": "unknown" if steady["class"] is None else steady["class"],
        "guess": steady["guess"],
        "camera": event["camera"],
        "generation": event["generation"],
    }


def _discovery(served: Served, topics: Topics) -> Event:
    name = served.classroom.lesson.learner.bundle.name
    return {
        "name": "sees",
        "unique_id": topics.name,
        "object_id": topics.name,
        "icon": "mdi:eye",
        "state_topic": topics.answer,
        "value_template": "{{ value_json.class }}",
        "json_attributes_topic": topics.answer,
        "availability_topic": topics.status,
        "device": {
            "identifiers": [topics.name],
            "name": topics.name,
            "manufacturer": "gems-edge",
            "model": name,
            "sw_version": __version__,
        },
    }
