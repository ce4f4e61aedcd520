"""A board that is not what one takes it for, behind a real sshd: nothing runs here, nothing is read or written but what
the job is about, and each ends soon with one plain line."""

import copy
import hashlib
import json
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gems_edge.cli.bench import _compare, _predict
from gems_edge.cli.bench_text import bench_text
from gems_edge.device.bench import measure_bundle
from gems_edge.device.bundle import read_bundle
from gems_edge.errors import MachineError, UserError
from gems_edge.predict.profiles import find_profiles
from gems_edge.remote import answers, bench, job, ssh
from gems_edge.remote.board import BOARD_MARK
from gems_edge.remote.wheels import build_own_wheel

pytestmark = pytest.mark.slow(60)

ESCAPE = "\x1b]0;title\x07\x1b[2Jred\rgems-edge: all is well\nand\u202eon\x9b31m"
NOT_UNDERSTOOD = "board answered what gems-edge does not understand; is it the machine that you mean?"
ODD = re.escape(NOT_UNDERSTOOD)
TOO_MUCH = r"board says more than gems-edge asks; is it the one that you mean\?"
SILENT = r"board gave no answer for \d+ s; is it busy\?"


@pytest.fixture(scope="module")
def facts(tmp_path_factory) -> dict:
    """An ordinary board's, which has kept the environment, so that nothing is fetched for it."""
    wheel = build_own_wheel(tmp_path_factory.mktemp("wheel"))
    return {
        "python": "python3", "version": [3, 11, 2], "implementation": "CPython", "bits": 64, "machine": "x86_64",
        "system": "Linux", "libc": ["glibc", "2.36"], "venv": True, "ensurepip": True, "base": "/home/pi/.cache/bench",
        "writable": True, "runs_code": True, "free_bytes": 10**12, "memory_bytes": 10**12,
        "kept": [f"env-cp311-{hashlib.sha256(wheel.read_bytes()).hexdigest()[:12]}"], "model": "a board",
    }  # fmt: skip


def event(document: object) -> list:
    text = document if isinstance(document, str) else json.dumps(document)
    return ["say", f"{job.EVENT_MARK.decode()}{text}\n"]


def fact(document: object) -> list:
    return ["say", f"{BOARD_MARK}{document if isinstance(document, str) else json.dumps(document)}\n"]


READY = event({"ready": True})


@pytest.fixture
def face(strange, bundle, facts, tmp_path, monkeypatch):
    """`face(look=…, begin=…, receive=…, attach=…)`: bench a board that does so: how it ends, and the lines meanwhile.

    Without a word it is an ordinary one up to the order to start, after which it is gone.
    """
    opened = read_bundle(bundle)
    monkeypatch.chdir(tmp_path)

    def call(patience: int = 2, most: float = 20.0, **deeds: list) -> tuple[str, list[str]]:
        ordinary = {
            "look": [fact(facts)], "receive": [["take"]], "begin": [READY, ["until", "start {"]],
            "attach": [["exit", 1]],
        }  # fmt: skip
        (strange.home / "deeds").write_text(json.dumps(ordinary | deeds))
        (strange.home / "orders").write_text("")
        (strange.home / "enter").write_text(f"exec {sys.executable} {Path(__file__).with_name('evil.py')}\n")
        shown, began = [], time.monotonic()
        with pytest.raises((UserError, MachineError)) as failure:
            target = bench.Target("board", str(strange.config), keep=True, patience=patience)
            bench.bench_on(opened, target, 1, shown.append)
        assert time.monotonic() - began < most, failure.value
        assert list(tmp_path.iterdir()) == []
        message = str(failure.value)
        assert all(line.isprintable() and len(line) < 700 for line in (message, *shown)), (message, shown)
        # What is asked holds nothing that the board said.
        for order in (strange.home / "orders").read_text().split("\0")[:-1]:
            if order != "sh":
                *words, name, number = order.split(" ")
                assert words[0] == "python3" and words[-1] in ("begin", "attach", "receive"), order
                assert re.fullmatch("run-[0-9a-f]{16}", name) and number.isdigit(), order
        return message, shown

    return call


def test_what_is_ordinary_is_understood(face):
    message, shown = face(begin=[READY, ["until", "start {"], event({"error": "full", "code": 2})])
    assert message == "board: full" and any("copying" in line for line in shown)


FACTS = [
    {"version": ["3", "11", "2"]}, {"version": [3, 11]}, {"version": [3, 11, 10**17]}, {"version": None},
    {"bits": True}, {"memory_bytes": "much"}, {"free_bytes": 1.5}, {"free_bytes": -1}, {"free_bytes": 10**400},
    {"libc": ["glibc", "x"]}, {"libc": ["glibc", "2.1000000000"]}, {"libc": []}, {"kept": [1]}, {"kept": {"a": 1}},
    {"venv": 1}, {"system": ["Linux"]}, {"python": None}, {"python": "/usr/bin/python3"},
    {"python": "python3; touch x"}, {"python": "-oProxyCommand=x"}, {"surprise": 1}, {"base": "x" * 5000},
    {"free_bytes": float("nan")},
]  # fmt: skip
TEXTS = ["{not json", "[1,2]", '{"python": "x"}', "", "[" * 100_000, '{"a":' * 30 + "1" + "}" * 30, "9" * 5000, "5"]


@pytest.mark.parametrize("answer", [*FACTS, *TEXTS], ids=lambda answer: str(answer)[:30])
def test_facts_of_another_form(facts, answer, monkeypatch):
    """All of what a board can answer to the first question goes this one way."""
    from gems_edge.remote import board

    text = answer if isinstance(answer, str) else json.dumps(facts | answer)
    monkeypatch.setattr(board, "run", lambda *_: ["motd", f"{BOARD_MARK}{text}"])
    with pytest.raises(MachineError) as failure:
        board.look(ssh.Connection("board", ()))
    assert str(failure.value) == NOT_UNDERSTOOD


@pytest.mark.parametrize(
    "look, words",
    [
        ([["forever", "x"]], TOO_MUCH),
        ([["forever", "x\n"]], TOO_MUCH),
        ([["forever", "x", "on stderr"]], TOO_MUCH),
        ([fact({"python": "x"})], ODD),
        ([["say", f"{BOARD_MARK}{{}}\n" * 6]], ODD),
        ([["complain", ESCAPE], ["exit", 3]], r"board: sh failed \(and\?on\?31m\)"),
        ([["complain", "Permission denied"], ["exit", 255]], "board refuses the login.*"),
        ([["say", f"gems-edge-machine {ESCAPE}\n"]], "board .*"),
        ([], "board has no python3.*"),
    ],
)
def test_facts_that_do_not_come(face, look, words):
    message, _ = face(look=look)
    assert re.fullmatch(words, message), message


PLACES = ['/tmp"\n!touch x\ncd "/tmp', "/tmp/$(touch x)`touch x`", "../../../etc", "/etc", "-oProxyCommand=x", ESCAPE]


@pytest.mark.parametrize("place", PLACES)
def test_what_a_board_says_of_itself_is_in_no_command(face, facts, place):
    told = facts | {"base": place, "model": place, "implementation": "CPython", "kept": [*facts["kept"], place]}
    message, _ = face(look=[fact(told)], begin=[event({"ready": place, "directory": place}), ["until", "start {"]])
    assert message.startswith("board")


@pytest.mark.parametrize(
    "begin, words",
    [
        ([event("5")], ODD),
        ([event("{")], ODD),
        ([event("[" * 100_000)], ODD),
        ([event('{"say": NaN}')], ODD),
        ([event('{"say": 1e999}')], ODD),
        ([["say", job.EVENT_MARK.decode() + '{"say": "'], ["forever", "x"]], TOO_MUCH),
        ([["forever", "\n"]], TOO_MUCH),
        ([["forever", f'{job.EVENT_MARK.decode()}{{"say": "x"}}\n']], f"{ODD}|{TOO_MUCH}"),
        ([event({"error": ["no", "code"]})], r"board: \['no', 'code'\]"),
        ([event({"error": ESCAPE, "code": 2})], "board: .*all is well.*"),
        ([event({"gone": True})], "board ended the job.*"),
        ([["complain", ESCAPE], ["exit", 1]], r"board cannot start \(and\?on\?31m\)"),
        ([READY, ["exit", 0]], "board no longer has the job.*"),
        ([READY, ["exit", 255]], "board no longer has the job.*"),
    ],
)
def test_a_keeper_that_is_none(face, begin, words):
    message, _ = face(begin=begin, receive=[["say", "gems-edge-have 0\n"], ["sleep", 3]])
    assert re.fullmatch(words, message), message


def test_what_is_shown_meanwhile_is_named_as_the_boards(face):
    said = [event({"say": ESCAPE}), event({"stage": {"a": [ESCAPE]}}), event({"say": "y" * 3000})]
    _, shown = face(begin=[*said, event({"error": "e"})])
    assert [line.startswith("board: ") for line in shown[-3:]] == [True] * 3 and "title" in shown[-3]


@pytest.mark.parametrize(
    "receive, words",
    [
        ([["say", "gems-edge-have -1\n"]], ODD),
        ([["say", "gems-edge-have 99999999999\n"]], ODD),
        ([["say", f"gems-edge-have {'9' * 5000}\n"]], ODD),
        ([["say", "gems-edge-have ../../etc\n"]], ODD),
        ([["forever", "gems-edge-have 0\n"]], TOO_MUCH),
        ([["complain", "No space left"], ["exit", 1]], r"copying to board failed \(No space left\).*"),
        ([["exit", 255]], "the connection to board was lost and did not come back within 2 s.*"),
        ([["say", "gems-edge-have 0\n"]], "the connection to board was lost and did not come back within 2 s.*"),
    ],
)
def test_files_that_are_not_taken(face, receive, words):
    message, _ = face(receive=receive)
    assert re.fullmatch(words, message), message


def test_a_connection_that_is_lost_again_and_again(face):
    lost = [event({"say": "x"}), ["exit", 255]]
    message, _ = face(begin=[READY, *lost], attach=lost, receive=[["say", "gems-edge-have 0\n"], ["sleep", 5]])
    assert message.startswith("the connection to board was lost and did not come back within 2 s")


@pytest.mark.parametrize("part", ["look", "begin", "receive"])
def test_silence(face, part, monkeypatch):
    monkeypatch.setattr(ssh, "ANSWER", 3.0)
    monkeypatch.setattr(ssh.RemoteCommand.lines, "__defaults__", (3.0, *ssh.RemoteCommand.lines.__defaults__[1:]))
    silent = [READY, ["sleep", 60]] if part == "receive" else [["sleep", 60]]
    message, _ = face(**{"begin": silent, part: [["sleep", 60]] if part != "begin" else silent})
    assert re.fullmatch(SILENT, message), message


def test_a_job_has_an_end(face, monkeypatch):
    monkeypatch.setattr(job, "_LONGEST", 3.0)
    alive = [step for _ in range(12) for step in (["say", "gems-edge-alive\n"], ["sleep", 0.5])]
    message, _ = face(begin=[READY, *alive])
    assert message.startswith("board has not finished within")


@pytest.mark.parametrize("result", [None, {}, [], 5, {"results": {}, "versions": {}, "seconds": {}}])
def test_no_result(face, result):
    message, _ = face(begin=[READY, ["until", "start {"], event({"result": result})])
    assert message == NOT_UNDERSTOOD


def test_silence_of_a_real_command_ends_in_time(start_bench, strange, facts):
    """As a user meets it: nothing but the program's own lines on the terminal, and its end after half a minute."""
    deeds = {"look": [fact(facts)], "begin": [event({"say": ESCAPE}), ["sleep", 120]]}
    (strange.home / "deeds").write_text(json.dumps(deeds))
    (strange.home / "enter").write_text(f"exec {sys.executable} {Path(__file__).with_name('evil.py')}\n")
    began = time.monotonic()
    process = start_bench(strange.config, "--keep")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and out == "" and time.monotonic() - began < 60, err  # the board sleeps for 120
    assert re.fullmatch(f"gems-edge: {SILENT}", err.splitlines()[-1]) and all(map(str.isprintable, err.split("\n")))


@pytest.fixture(scope="module")
def honest(bundle) -> dict:
    """What a board sends at the end."""
    document = json.loads(json.dumps(measure_bundle(read_bundle(bundle), 1, lambda _: None)))
    prediction = {"image": "query/0.png", "label": "a", "probability": 0.75, "probabilities": {"a": 0.75, "b": 0.25}}
    return {
        "versions": {"python": "3.11.2", "onnxruntime": "1.31.1", "numpy": "2.4"}, "seconds": {"install": 1.0},
        "results": {
            "adapt": {"steps": 5, "ms_per_step": {"p50": 1.5, "p90": 2.0}}, "predict": [prediction], "bench": document,
        },
    }  # fmt: skip


EXPECTED = np.array([[0.75, 0.25]])


def test_a_result_says_nothing_of_this_machine(honest):
    false = {"host": "another", "kept": "/etc", "copied_bytes": 0, "agreement": {}}
    known = answers.read_answers(honest, EXPECTED, "board")
    assert known[0].items() <= honest["results"]["bench"].items() and known[1]["agreement"]["largest_difference"] == 0
    result = copy.deepcopy(honest)
    result["versions"] |= false
    result["results"] |= false
    result["results"]["bench"] |= {"devices": {}, "comparison": {}, "remote": false}
    assert answers.read_answers(result, EXPECTED, "board") == known


def places(document: object, path: tuple = ()) -> list[tuple]:
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [path, *(place for name, value in inner for place in places(value, (*path, name)))]


def test_a_result_of_another_form_is_refused_or_can_be_shown(honest, bundle):
    """Each part of it in turn is another thing, or missing: one line, or a text and a comparison."""
    predictions = {name: _predict(read_bundle(bundle), profile, 1) for name, profile in find_profiles("rpi-4b").items()}
    refused = 0
    for *inner, last in [place for place in places(honest) if place]:
        for value in (None, "1", 5, -1, [], {}, [1], {"p50": 1}, True, ...):
            result = copy.deepcopy(honest)
            part = result
            for name in inner:
                part = part[name]
            if value is ...:
                del part[last]
            else:
                part[last] = value
            try:
                measured, answered = answers.read_answers(result, EXPECTED, "board")
            except MachineError as error:
                refused += str(error) == NOT_UNDERSTOOD
                continue
            document = measured | {"bundle": "h.gems", "steps": 5, "devices": predictions}
            document["remote"] = {"host": "board", **answered}
            document["comparison"] = {name: _compare(document, found) for name, found in predictions.items()}
            assert bench_text(document)
    assert refused > 300
