"""Parsing the text of options: lists with commas, image sets, iterations to keep, boards."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gems_edge.data.specs import split_specs
from gems_edge.errors import UserError
from gems_edge.meta.settings.kept import Kept
from gems_edge.predict.profiles import DeviceProfile, find_profile

N = TypeVar("N", int, float)


if TYPE_CHECKING:
    from gems_edge.data.shots import Shots

    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # older versions of click know no type of its values


class Parsed(_ParamType):
    """An option's type whose values come from `parse(text, option)`, which raises UserError for invalid text."""

    name = "text"

    def __init__(self, parse: Callable[[str, str], Any]):
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.parse(value, param.opts[0] if param else "") if isinstance(value, str) else value


def numbers(kind: Callable[[str], N], wanted: str, empty: str = "") -> Parsed:
    """A tuple of numbers with commas; `empty` stands for (). `wanted`: what a message asks for."""

    def parse(text: str, option: str) -> tuple[N, ...]:
        if text == empty:
            return ()
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise UserError(f"{option} {text}: {wanted}") from None

    return Parsed(parse)


def _kept(text: str, option: str) -> Kept:
    at: list[int] = []
    every: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        number = part.removeprefix("every:")
        if not number.isascii() or not number.isdigit() or (part != number and int(number) == 0):
            raise UserError(f"{option} {text}: give iterations and every:N, with commas (500,every:1000)")
        (at if part == number else every).append(int(number))
    return Kept(tuple(at), tuple(every))


def _one_set(text: str, option: str) -> str:
    specs = split_specs(text)
    if len(specs) > 1:
        raise UserError(f"{option} {text}: a bundle is specialised for one image set; give one")
    return specs[0]


def _boards(text: str, option: str) -> tuple[DeviceProfile, ...]:
    return tuple(find_profile(board.strip()) for board in text.split(",") if board.strip())


def _shots(text: str, option: str) -> "Shots":
    from gems_edge.data.shots import Shots  # needs numpy, which takes a while

    return Shots.parse(text)


def _given_shots(text: str, option: str) -> "Shots":
    from gems_edge.data.shots import Shots

    return Shots.parse_given(text)


IMAGE_SETS = Parsed(lambda text, option: split_specs(text))
ONE_IMAGE_SET = Parsed(_one_set)
KEPT = Parsed(_kept)
SHOTS = Parsed(_shots)
GIVEN_SHOTS = Parsed(_given_shots)
DATA_WEIGHTS = numbers(float, "give a number above 0 for each of the image sets, with commas")
WIDTHS = numbers(int, "give `full`, one number, or one for each group of channels with commas", "full")
SPARSITY = numbers(float, "write learned, or numbers from 0 to 1 with commas", "learned")
RATIOS = numbers(float, "give a number, or several with commas")
BOARDS = Parsed(_boards)
