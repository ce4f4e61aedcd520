"""gems-edge rollback: go back to the bundle that was in use before."""

from pathlib import Path

import click

from gems_edge.cli.common import PATH, emit, json_option, show_lines, trust_options


@click.command()
@click.argument("directory", type=PATH)
@trust_options
@json_option
def command(directory: Path, as_json: bool) -> None:
    """Use again the bundle that was in use in DIRECTORY before the last installation, with what that was taught.

    A second time it goes forth again: nothing is removed. With a trust file an older release needs --allow-older, and
    is then the highest that was opened.

    \b
    Example:
      gems-edge rollback board
    """
    from dataclasses import asdict

    from gems_edge.device.roll_back import roll_back
    from gems_edge.device.trust import Trust
    from gems_edge.wording import count_text

    done = roll_back(directory, Trust.from_environment())
    product = done.bundle.product
    if as_json:
        emit(
            {
                "directory": str(directory),
                "slot": done.slot.number,
                "left": done.left.number if done.left else None,
                "name": done.bundle.name,
                "product": asdict(product) if product else None,
                "photos_left": done.photos,
            }
        )
        return
    lines = [f"{done.bundle.name} (slot {done.slot.number}) is in use again in {directory}"]
    if done.photos and done.left:
        lines.append(
            f"{count_text(done.photos, 'photo')} taught since then stayed in {done.left.path}; teach them again, or "
            "roll back once more"
        )
    show_lines("\n".join(lines))
