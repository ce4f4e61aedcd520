"""Options of the small training run that many tests share, and how to start one on two processes."""

import signal

from gems_edge.torchrun import torchrun

TORCHRUN = (*torchrun(2), "-m", "gems_edge")

# Small and quick, but real: second-order MAML on glyphs.
SMALL = (
    "--data", "glyphs", "--widths", "32", "--shots", "1", "--steps", "2", "--inner-lr", "0.1", "--meta-batch", "4",
    "--queries", "5", "--validate-every", "20", "--validation-episodes", "10", "--checkpoint-every", "7",
    "--compute", "cpu",
)  # fmt: skip

# And its export.
EXPORT = ("--ratio", "0.6", "--recover-iterations", "10", "--episodes", "10")


def hear_ctrl_c() -> None:
    """In a child before it starts: what a shell runs in the background ignores SIGINT, and so would the child."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
