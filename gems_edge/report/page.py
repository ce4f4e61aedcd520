"""One self-contained HTML page from sections: no file beside it, no request to anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import ClassVar, Literal

# How a number is known; shown as a badge wherever a table cell is exactly one of these words.
TAGS = ("measured", "predicted", "counted")


@dataclass(frozen=True)
class KeyFigure:
    label: str
    value: str
    note: str = ""
    tag: str = ""  # one of TAGS, or empty


@dataclass(frozen=True)
class KeyFigures:
    figures: tuple[KeyFigure, ...]
    shape: ClassVar[str] = "key figures"


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and how it is known."""

    value: str
    interval: str
    tag: str


@dataclass(frozen=True)
class Table:
    header: Sequence[str]
    rows: Sequence[Sequence[str | Estimate]]
    caption: str = ""
    numeric: frozenset[int] = frozenset()  # columns set flush right
    shape: ClassVar[str] = "table"


def number_table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", words: int = 1) -> Table:
    """A table in which every column after the first `words` holds numbers."""
    return Table(header, rows, caption, frozenset(range(words, len(header))))


@dataclass(frozen=True)
class Picture:
    """`markup` is trusted HTML or SVG (see plots.py); everything else on the page is escaped."""

    markup: str
    caption: str = ""
    shape: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Note:
    text: str
    shape: ClassVar[str] = "note"


# "unsure": not answered, for the image is like nothing that was taught.
Verdict = Literal["right", "wrong", "unsure"]


@dataclass(frozen=True)
class EpisodeQuery:
    image: str  # data: URI
    predicted: str
    probability: str
    verdict: Verdict


@dataclass(frozen=True)
class EpisodeRow:
    name: str
    support: tuple[str, ...]  # data: URIs
    queries: tuple[EpisodeQuery, ...]


@dataclass(frozen=True)
class EpisodePicture:
    rows: tuple[EpisodeRow, ...]
    fine: bool  # smooth scaling; otherwise pixels stay square
    shape: ClassVar[str] = "episode"


Block = KeyFigures | Table | Picture | Note | EpisodePicture


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]


def render_page(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """The page as text. `subtitle` defaults to the version that wrote it."""
    import jinja2

    from gems_edge import __version__

    folder = resources.files("gems_edge.report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    style = (folder / "style.css").read_text(encoding="utf-8")
    page = template.render(
        title=title,
        subtitle=subtitle or f"Written by gems-edge {__version__}",
        sections=sections,
        style=style,
        tags=TAGS,
    )
    return page + "\n"
