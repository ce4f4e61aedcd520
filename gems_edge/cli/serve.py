"""gems-edge serve: teach and ask over HTTP, beside a live picture."""

from pathlib import Path

import click

from gems_edge.cli.common import say, say_unchecked, trust_flags


@click.command()
@click.argument("bundle", type=click.Path())
@click.option("--state", type=click.Path(path_type=Path), required=True, help="What was taught; made at the first.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; others need a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: any that is free.")
@click.option("--precision", type=click.Choice(["fp32", "int8"]), help="As it was taught in.  [default: as of adapt]")
@click.option("--threads", type=click.IntRange(min=1), help="Threads; one per core if left out.")
@trust_flags
def command(bundle: str, state: Path, host: str, port: int, precision: str | None, threads: int | None) -> None:
    """Teach BUNDLE and ask it over HTTP. Ends at Ctrl-C and SIGTERM; nothing that was taught is lost.

    \b
    Example:
      gems-edge serve plates.gems --state mine.state
    """
    from gems_edge.device import Learner
    from gems_edge.serve.classroom import Classroom
    from gems_edge.serve.server import open_socket, run, token_for

    classroom = Classroom(Learner.load(bundle, threads, precision), state)
    token = token_for(host, state)
    listening = open_socket(host, port)
    place = f"[{host}]" if ":" in host else host
    tail = f"?token={token}" if token else ""
    say(f"http://{place}:{listening.getsockname()[1]}/{tail}")
    say_unchecked()
    run(classroom, listening, token)
