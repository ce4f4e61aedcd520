"""What is asked of a pretrained network: is training better than none, and are BMP and MMSUP better than the others?

The paper has no pretrained networks. Where it claims something of its own, that is asked here too, in its words.
"""

from collections.abc import Iterator, Sequence

from gems_edge.reproduce.claims import Claim, Quote, accuracy_finding, claim_of
from gems_edge.reproduce.gems.bar import UNTRAINED, at_shots, bar_row
from gems_edge.reproduce.gems.paper import QUOTES
from gems_edge.reproduce.gems.plan import GemsRows
from gems_edge.reproduce.gems.protocol import PROTOTYPES, GemsPreset
from gems_edge.reproduce.gems.tables import NAMES
from gems_edge.reproduce.protocol import Setup
from gems_edge.reproduce.verdicts import ABOVE_ZERO, NONE

_OURS = Quote("not in the paper, which has no pretrained networks", NONE)
# What the paper says of BMP and MMSUP against MAML.
_AGAINST_MAML = {"seen": QUOTES["bmp-maml"], "unseen": QUOTES["cross"]}
_LEARNERS, _OTHERS = ("bmp", "mmsup"), ("maml", "anil", PROTOTYPES)


def answers(preset: GemsPreset, rows: GemsRows) -> list[Claim]:
    """The questions whose rows `rows` has, each at every number of shots, on the trained sets and on unseen ones."""
    claims: list[Claim] = []
    for setup in rows.setups:
        places = {"seen": setup.sets, "unseen": preset.unseen(setup.sets)}
        for shots in preset.shots:
            tested = at_shots(GemsRows([bar_row(rows, setup), *rows.of(setup)]), shots)
            for place, sets in places.items():
                claims += _asked(tested, setup, shots, place, sets) if sets else []
    return [claim for claim in claims if claim.findings]


def _asked(rows: GemsRows, setup: Setup, shots: int, place: str, sets: Sequence[str]) -> Iterator[Claim]:
    """`rows`: the bar and all others, as tested at `shots`; `sets`: what the mean is taken over."""
    where = f"{place} sets, {shots}-shot (mean over {', '.join(sets)})"
    findings = [accuracy_finding(NAMES[row.method], row, rows[0], ABOVE_ZERO, sets) for row in rows[1:]]
    text, key = f"Each method is above the {NAMES[UNTRAINED]} network on {where}", f"bar-{place}-{shots}"
    yield claim_of({key: _OURS}, key, text, setup, findings)
    for other in _OTHERS:
        reference, key = rows.find(setup, other), f"{other}-{place}-{shots}"
        quote = _AGAINST_MAML[place] if other == "maml" else _OURS
        learners = [(NAMES[method], rows.find(setup, method)) for method in _LEARNERS]
        findings = [accuracy_finding(label, row, reference, ABOVE_ZERO, sets) for label, row in learners]
        yield claim_of({key: quote}, key, f"BMP and MMSUP are above {NAMES[other]} on {where}", setup, findings)
