"""gems-edge serve: teach and ask over HTTP, beside a live picture."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gems_edge.cli.common import say, say_unchecked, threads_option, trust_flags

if TYPE_CHECKING:
    from gems_edge.serve.server import Beside


@click.command()
@click.argument("bundle", type=click.Path())
@click.option("--state", type=click.Path(path_type=Path), required=True, help="What was taught; made at the first.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; others need a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: any that is free.")
@click.option(
    "--tls", is_flag=True, help="https, with a certificate of its own: phones give their cameras to no other."
)
@click.option("--precision", type=click.Choice(["fp32", "int8"]), help="As it was taught in.  [default: as of adapt]")
@click.option("--camera", metavar="WHERE", help="One at the board: its number (V4L2, OpenCV), an address, a folder.")
@click.option("--mqtt", metavar="HOST[:PORT]", help="Tell this broker what cameras show; Home Assistant finds it.")
@threads_option
@click.option(
    "--json", "as_json", is_flag=True, help="When it listens, one line of JSON on stdout, and nothing else there."
)
@trust_flags
def command(
    bundle: str,
    state: Path,
    host: str,
    port: int,
    tls: bool,
    precision: str | None,
    camera: str | None,
    mqtt: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Teach BUNDLE and ask it over HTTP: a page for phones and laptops, and JSON. Ends at Ctrl-C and SIGTERM; nothing
    that was taught is lost.

    \b
    Example:
      gems-edge serve plates.gems --state mine.state
      gems-edge serve plates.gems --state mine.state --host 0.0.0.0 --tls
    """
    from gems_edge.device import Learner
    from gems_edge.predict.room import check_least_room
    from gems_edge.serve.addresses import addresses, is_loopback
    from gems_edge.serve.certificate import certificate_for
    from gems_edge.serve.classroom import Classroom
    from gems_edge.serve.guard import read_token
    from gems_edge.serve.served import Served
    from gems_edge.serve.server import Server, open_socket, run

    beside = _beside(camera, mqtt)
    listening = open_socket(host, port)
    classroom = Classroom(Learner.load(bundle, threads, precision, may_read=check_least_room), state)
    token = None if is_loopback(listening) else read_token(state)
    certificate = certificate_for(state, host) if tls else None
    urls = addresses(listening, "https" if tls else "http", token)
    say_unchecked()
    _say_start(urls, token, state, as_json)
    run(Server(Served(classroom), token, certificate, beside), listening)


def _beside(camera: str | None, mqtt: str | None) -> "list[Beside]":
    """What goes on beside the page; UserError for no camera and no broker."""
    beside: list[Beside] = []
    if camera is not None:
        from gems_edge.serve.cameras import check_camera
        from gems_edge.serve.watching import watch

        beside.append(partial(watch, check_camera(camera)))
    if mqtt is not None:
        from gems_edge.serve.mqtt import broker_in, publish

        beside.append(partial(publish, broker_in(mqtt)))
    return beside


def _say_start(urls: list[str], token: str | None, state: Path, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"urls": urls, "token": token, "state": str(state)}))
        return
    for url in urls:
        say(url)
    if token and sys.stderr.isatty():
        import segno

        segno.make(urls[0], error="l").terminal(sys.stderr, compact=True)
