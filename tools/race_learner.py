"""Threads that ask one learner while another teaches it: every answer must be wholly of the old or the new teaching.

python tools/race_learner.py glyphs.gems --threads 8 --answers 100000
"""

import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from gems_edge.device import Learner
from gems_edge.device.measure import random_pixels

TOLERANCE = 1e-6  # of a probability; the two teachings differ in their number of classes


class Lessons:
    """Two lessons on noise, of two classes and of all, and what a learner answers after each."""

    def __init__(self, bundle: Path, seed_images: int = 2):
        self.learner = Learner.load(bundle, threads=1)
        ways = self.learner.bundle.ways
        pixels = random_pixels(self.learner.bundle, seed_images * ways + 3)
        self.queries, images = pixels[:3], pixels[3:]
        labels = [index // seed_images for index in range(len(images))]
        self.lessons = [(images[: 2 * seed_images], labels[: 2 * seed_images]), (images, labels)]
        self.answers = []
        for number in (0, 1):
            self.teach(number)
            self.answers.append(self.learner.predict(self.queries))

    def teach(self, number: int) -> None:
        self.learner.adapt(*self.lessons[number], 1 if self.learner.bundle.takes_steps else None)

    def of(self, answer: np.ndarray) -> str:
        """Whose answer it is: "first", "second" or "neither"."""
        for name, right in zip(("first", "second"), self.answers):
            if answer.shape == right.shape and np.abs(answer - right).max() <= TOLERANCE:
                return name
        return "neither"


# Teachings that a race waits for, however fast the answers come.
FEWEST = 6


def race(lessons: Lessons, threads: int, answers: int, say: Callable[[str], None] = lambda line: None) -> Counter[str]:
    """`threads` threads ask until there are `answers`, and on until this one has taught the two lessons in turn FEWEST
    times: how many answers were of which, how many raised what, and how many teachings there were, each asked for at
    once and right ("late" if not). Python passes from thread to thread as often as it can."""
    tally: Counter[str] = Counter()
    lock, left = threading.Lock(), [answers]

    def ask() -> None:
        while True:
            with lock:
                if left[0] <= 0 and tally["teachings"] >= FEWEST:
                    return
                left[0] -= 1
            try:
                found = lessons.of(lessons.learner.predict(lessons.queries))
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            with lock:
                tally[found] += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    asking = [threading.Thread(target=ask) for _ in range(threads)]
    try:
        for thread in asking:
            thread.start()
        while any(thread.is_alive() for thread in asking):
            number = tally["teachings"] % 2
            lessons.teach(number)
            is_right = lessons.of(lessons.learner.predict(lessons.queries)) == ("first", "second")[number]
            with lock:
                tally["teachings"] += 1
                tally["late"] += not is_right
                if not tally["teachings"] % 100:
                    say(f"{answers - left[0]:,} answers, {tally['teachings']:,} teachings")
    finally:
        sys.setswitchinterval(interval)
        for thread in asking:
            thread.join()
    return +tally


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(1), default=8, show_default=True)
@click.option("--answers", type=click.IntRange(1), default=100_000, show_default=True)
def main(bundle: Path, threads: int, answers: int) -> None:
    tally = race(Lessons(bundle), threads, answers, lambda line: click.echo(line, err=True))
    for name, count in tally.most_common():
        click.echo(f"{count:9,}  {name}")
    wrong = sum(count for name, count in tally.items() if name not in ("first", "second", "teachings"))
    asked = sum(tally.values()) - tally["teachings"]
    click.echo(f"{wrong} of {asked:,} answers by {threads} threads were of neither teaching")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
