"""An accuracy with its interval reads alike everywhere."""

import math

import pytest

from gems_edge.wording import accuracy_text, interval_text, number_text, percent_text


@pytest.mark.parametrize(
    "arguments, text",
    [
        ((0.812, 0.009), "81.2 ± 0.9"),
        ((0.812,), "81.2"),
        ((0.812, math.inf), "81.2"),
        ((0.812, 0.0), "81.2 ± 0.0"),
        ((-0.0123, 0.004, 2, True), "-1.23 ± 0.40"),
        ((0.0123, 0.004, 2, True), "+1.23 ± 0.40"),
    ],
)
def test_percent(arguments, text):
    assert percent_text(*arguments) == text


def test_an_accuracy_has_a_unit():
    assert accuracy_text({"accuracy": 0.4804, "ci95": 0.0079}) == "48.0 ± 0.8 %"
    assert accuracy_text({"accuracy": 0.4804, "ci95": 0.0079}, 2) == "48.04 ± 0.79 %"
    assert accuracy_text({"accuracy": 0.5}) == "50.0 %"


def test_numbers_keep_three_digits():
    assert (number_text(0.12345), number_text(12345.6), interval_text(1, 1000)) == ("0.123", "12,346", "1 … 1,000")
