"""Profiles: what ships is valid and sourced, and what is wrong is named in one line."""

import tomllib

import pytest

from gems_edge.errors import UserError
from gems_edge.predict import profiles
from gems_edge.predict.profiles import find_profile, list_profiles, load_profile, read_profile
from gems_edge.predict.work import TERMS


def write(tmp_path, change):
    """rpi-4b's profile as a TOML file, after `change` was made to it."""
    import tomli_w

    document = tomllib.loads((profiles.resources.files("gems_edge.device_profiles") / "rpi-4b.toml").read_text())
    change(document)
    path = tmp_path / "rpi-4b.toml"
    path.write_text(tomli_w.dumps(document))
    return path


@pytest.mark.parametrize("device", list_profiles())
def test_every_fact_has_a_source(device):
    profile = load_profile(device)
    assert profile.facts
    for name, fact in profile.facts.items():
        assert len(fact.source) > 10, name


def test_boards_of_the_issue_are_there():
    timed = {device for device in list_profiles() if not load_profile(device).memory_only}
    assert timed >= {
        "rpi-zero-2w", "rpi-3b-plus", "rpi-4b", "rpi-5", "jetson-nano", "orangepi-5", "radxa-zero-3w", "imx8m-plus",
        "beaglebone-ai-64",
    }  # fmt: skip
    assert set(list_profiles()) - timed >= {"stm32h743", "rp2350", "esp32-s3"}


@pytest.mark.parametrize("device", list_profiles())
def test_no_core_does_more_than_its_clock_allows(device):
    profile = load_profile(device)
    if not profile.memory_only:
        assert profile["fp32_peak_core"] <= 16.7 * profile["clock"]
        assert "int8_peak_core" in profile.facts


def test_find_by_id_or_by_file(tmp_path):
    path = write(tmp_path, lambda document: None)
    assert find_profile(str(path)) == find_profile("rpi-4b")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda d: d["facts"]["cores"].pop("source"), "cores has no source"),
        (lambda d: d["facts"]["clock"].update(source=" "), "clock has no source"),
        (lambda d: d["facts"]["clock"].update(unit="MHz"), "clock must be in GHz"),
        (lambda d: d["facts"]["clock"].update(value=1800.0), "clock = 1800.0 is outside 0.05 to 6 GHz"),
        (lambda d: d["facts"]["clock"].update(value=float("nan")), "clock = nan is outside"),
        (lambda d: d["facts"]["cores"].update(value=4.5), "cores must be a whole number"),
        (lambda d: d["facts"]["cores"].update(value=True), "cores must be a whole number"),
        (lambda d: d["facts"]["soc"].update(value=7), "soc must be text"),
        (lambda d: d["facts"].pop("bandwidth"), "`bandwidth` is missing"),
        (lambda d: d["facts"].update(colour={"value": "red", "source": "seen"}), "unknown fact `colour`"),
        (lambda d: d["facts"]["ram"].update(note="x"), "ram has the unknown key `note`"),
        (lambda d: d["facts"]["ram_usable"].update(value=4096), r"ram_usable \(4096\) is above ram"),
        (lambda d: d.update(id="other"), "its id is 'other'"),
        (lambda d: d.update(price=35), "unknown key `price`"),
        (lambda d: d.pop("facts"), "no facts"),
        (lambda d: d.update(memory_only=True), "`memory_only` must be text"),
        (lambda d: d.update(memory_only="a toy"), "unknown fact `bandwidth`"),
        (lambda d: d.update(measured=3), "needs a source"),
        (lambda d: d.update(measured={"source": "here"}), "threads.N. is missing"),
        (
            lambda d: d.update(measured={"source": "here", "spread": 0.2, "threads": {"1": {"conv": 1.0}}}),
            "spread must have a number between 0 and 3 for 1 threads",
        ),
        (
            lambda d: d.update(measured={"source": "here", "spread": {"1": 0.2}, "threads": {"1": {"conv": 1.0}}}),
            "every term of work once",
        ),
        (
            lambda d: d.update(
                measured={"source": "x", "spread": {"1": 0.2}, "threads": {"1": dict.fromkeys(TERMS, -1.0)}}
            ),
            "must be ns per unit, not -1.0",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        read_profile(write(tmp_path, change))


def test_unknown_id_lists_the_known():
    with pytest.raises(UserError, match="unknown device 'rpi-9'; known: .*rpi-4b"):
        load_profile("rpi-9")


@pytest.mark.parametrize("content", [b"id = ", b"\xff\xfe"])
def test_not_toml(tmp_path, content):
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match="x.toml"):
        read_profile(path)
