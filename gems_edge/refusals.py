"""What is wrong with many files is told at once, not one at a time."""

import warnings
from collections.abc import Sequence

from gems_edge.errors import UserError
from gems_edge.wording import count_text

# What else can be done about images that cannot be read, where they come by --data.
SKIP = ", or leave out what is bad: train and data pack take --skip-bad"


def refuse_all(problems: Sequence[str], summary: str) -> None:
    """UserError if there are problems: the one that there is, or `summary` after a warning for each has named it."""
    if len(problems) == 1:
        raise UserError(problems[0])
    for problem in problems:
        warnings.warn(problem, stacklevel=3)
    if problems:
        raise UserError(summary)


def check_readable(problems: Sequence[str], total: int, skip_bad: bool = False, otherwise: str = "") -> None:
    """What is wrong with each of the images that cannot be read, of `total`. With `skip_bad` it is a warning for each;
    else UserError. `otherwise`: what can be done beside replacing them."""
    if skip_bad and len(problems) < total:
        for problem in problems:
            warnings.warn(f"left out: {problem}", stacklevel=3)
        return
    if len(problems) == 1:
        raise UserError(f"{problems[0]}{otherwise}")
    refuse_all(
        problems,
        f"{len(problems):,} of {count_text(total, 'image')} (named above) cannot be read; replace them{otherwise}",
    )
