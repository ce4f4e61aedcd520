"""A board that is not what one takes it for: what it says becomes no command here, and no escape sequence."""

import hashlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gems_edge.errors import MachineError, UserError
from gems_edge.remote import bench, board, job, ssh
from gems_edge.remote.wheels import build_own_wheel

FACTS = {
    "python": "/usr/bin/python3", "version": [3, 11, 2], "implementation": "CPython", "bits": 64, "machine": "x86_64",
    "system": "Linux", "libc": ["glibc", "2.36"], "venv": True, "ensurepip": True, "base": "/home/pi/.cache/bench",
    "writable": True, "runs_code": True, "free_bytes": 10**12, "memory_bytes": 10**12, "kept": [], "model": "a board",
}  # fmt: skip
CONNECTION = ssh.Connection("board", ())
ESCAPE = "\x1b]0;title\x07\x1b[2Jred\rgems-edge: all is well\nand\u202eon\x9b31m"


@pytest.fixture
def answer(monkeypatch):
    """`answer(text)`: the board, if it says `text` of itself."""

    def give(text: str) -> board.Board:
        monkeypatch.setattr(board, "run", lambda *_: f"motd\n{board.BOARD_MARK}{text}\n")
        return board.look(CONNECTION)

    return give


@pytest.fixture
def told(answer, monkeypatch):
    """`told(*events)`: a job on a board whose keeper sends them, what it showed, and the commands that it gave ssh."""

    def begin(*events: object) -> tuple[job.BoardJob, list[str], list[str]]:
        lines = [
            f"{job.EVENT_MARK.decode()}{event if isinstance(event, str) else json.dumps(event)}\n" for event in events
        ]
        shown, commands = [], []

        def start(_, command: str) -> ssh.RemoteCommand:
            commands.append(command)
            program = [sys.executable, "-c", f"print({''.join(lines)!r}, flush=True); input()"]
            process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            return ssh.RemoteCommand(process, process.stdin, process.stdout, open("/dev/null", "rb"))

        monkeypatch.setattr(ssh, "start", start)
        return job.BoardJob(CONNECTION, answer(json.dumps(FACTS)), 2, shown.append), shown, commands

    return begin


def test_what_an_ordinary_board_says_is_taken_as_it_is(answer):
    script = Path(board.__file__).with_name("look.py")
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    facts = json.loads(said.removeprefix(board.BOARD_MARK))
    looked = answer(json.dumps(facts))
    for name, value in facts.items():
        assert getattr(looked, name) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("place", ["/mnt/My Disk/günther/.cache", "/data//a+b=c,d@e:f~/-_1", "/"])
def test_ordinary_paths_are_accepted(answer, place):
    assert answer(json.dumps(FACTS | {"base": place})).base == place


@pytest.mark.parametrize("name", ["python", "base"])
@pytest.mark.parametrize(
    "end",
    [
        '"',
        "\n!touch x",
        "\\",
        "'",
        ";x",
        "$(x)",
        "`x`",
        "*",
        "?",
        "[a]",
        "!x",
        "#",
        "\0",
        "\x1b[2J",
        "\ud800",
        "\r",
        "\n",
    ],
)
def test_a_path_that_could_be_a_command_is_refused(answer, name, end):
    for path in (f"/tmp{end}", f"/tmp{end}/x"):
        with pytest.raises(UserError, match=r"board: the path /tmp.* holds more than letters") as refusal:
            answer(json.dumps(FACTS | {name: path}))
        assert str(refusal.value).isprintable()


@pytest.mark.parametrize("path", ["", "-oProxyCommand=x", "home", "~/x", " /x"])
def test_a_path_begins_at_the_root(answer, path):
    with pytest.raises(UserError, match="the path"):
        answer(json.dumps(FACTS | {"base": path}))


@pytest.mark.parametrize(
    "change",
    [
        {"version": ["3", "11", "2"]}, {"version": [3, 11]}, {"version": "3.11"}, {"version": None}, {"bits": True},
        {"memory_bytes": "much"}, {"free_bytes": 1.5}, {"free_bytes": -(10**400)}, {"libc": ["glibc", "x"]},
        {"libc": ["glibc", "2.1000000000"]}, {"libc": []}, {"kept": [1]}, {"kept": {"a": 1}}, {"venv": 1},
        {"system": ["Linux"]}, {"python": None}, {"surprise": 1},
    ],
)  # fmt: skip
def test_facts_of_another_kind_are_refused_in_one_line(answer, change):
    with pytest.raises(MachineError, match="^board answered what gems-edge does not understand"):
        answer(json.dumps(FACTS | change))


@pytest.mark.parametrize("text", ["{not json", "[1,2]", '{"python": "x"}', "", "[" * 100_000, "9" * 5000])
def test_an_answer_of_another_form_is_refused_in_one_line(answer, text):
    with pytest.raises(MachineError, match="^board answered what gems-edge does not understand"):
        answer(text)


@pytest.mark.parametrize("event", ["5", "{", "[]", "[" * 100_000])
def test_an_event_of_another_form_is_refused_in_one_line(told, event):
    work, _, _ = told(event)
    with pytest.raises(MachineError, match="^board answered what gems-edge does not understand"), work:
        pass


@pytest.mark.parametrize(
    "directory", ['/tmp"\n!touch x\ncd "/tmp', "/tmp", "/home/pi/.cache/bench/run-0", "..", 5, None]
)
def test_the_jobs_directory_is_named_here(told, directory, monkeypatch, tmp_path):
    batches = []
    monkeypatch.setattr(ssh, "transfer", lambda _, batch, __: batches.append(list(batch)))
    work, _, commands = told({"directory": directory})
    with work:
        work.copy(tmp_path, ["payload.zip"])
        work._reattach()
    own = re.fullmatch(r'cd "(/home/pi/\.cache/bench/run-[0-9a-f]{16})"', batches[0][0])[1]
    assert batches == [[f'cd "{own}"', "put empty payload.zip"], [f'cd "{own}"', "-put -a payload.zip"]]
    begun, again = map(shlex.split, commands)
    assert begun[0] == again[0] == FACTS["python"] and begun[3:5] == ["begin", own]
    assert again[1:] == [f"{own}/keeper.py", "attach", own, "1"]


def test_two_jobs_have_two_directories(told):
    assert told()[0]._directory != told()[0]._directory


@pytest.mark.parametrize("code, kind", [(2, UserError), (1, MachineError), (None, MachineError)])
def test_what_a_keeper_says_reaches_the_terminal_as_plain_lines(told, code, kind):
    said = {"error": ESCAPE} | ({"code": code} if code else {})
    work, shown, _ = told({"stage": ESCAPE}, {"say": ESCAPE}, said)
    with pytest.raises(kind) as failure, work:
        pass
    assert len(shown) == 2 and all("title" in line and line.isprintable() for line in [*shown, str(failure.value)])


def test_a_result_has_no_control_characters_however_deep_they_are(told):
    work, _, _ = told({"directory": ""}, {"result": {ESCAPE: [{"a": [ESCAPE, 1, None]}]}})
    with work:
        [(name, [inner])] = work.run({}).items()
    text, *others = inner["a"]
    assert name.isprintable() and text.isprintable() and others == [1, None]


RESULT = {
    "versions": {"python": "3.11.2", "onnxruntime": "1.31.1", "numpy": "2.4"}, "seconds": {"install": 1.0},
    "results": {
        "adapt": {}, "predict": [{"image": "query/0.png", "probabilities": {"a": 0.75, "b": 0.25}}], "bench": {},
    },
}  # fmt: skip


def test_a_result_says_nothing_of_this_machine():
    expected, false = np.array([[0.75, 0.25]]), {"host": "another", "kept": "/etc", "copied_bytes": 0}
    honest = bench._results(RESULT, expected, "board")
    result = {
        **RESULT,
        "versions": RESULT["versions"] | false,
        "results": RESULT["results"] | false | {"agreement": {}},
    }
    assert bench._results(result, expected, "board") == honest
    assert honest[1]["agreement"]["largest_difference"] == 0 and not honest[1].keys() & false.keys()


@pytest.mark.parametrize(
    "change",
    [
        {"versions": None},
        {"versions": {"python": "3.11.2"}},
        {"seconds": {"install": "1"}},
        {"results": []},
        {"results": {**RESULT["results"], "bench": 5}},
        *({"results": {**RESULT["results"], "predict": answers}} for answers in (
            None, [], [5], [{}], [{"probabilities": [1]}], [{"probabilities": {"a": "1", "b": "0"}}],
            [{"probabilities": {"a": 10**400, "b": 0}}], [{"probabilities": {"a": 1, "b": 0, "c": 0}}],
        )),
    ],
)  # fmt: skip
def test_a_result_of_another_form_is_refused_in_one_line(change):
    with pytest.raises(MachineError, match="^board answered what gems-edge does not understand"):
        bench._results(RESULT | change, np.array([[0.75, 0.25]]), "board")


def enter(
    server, *, facts: dict, environment: dict[str, str], events: str = "", words: str = "", code: int = 0
) -> None:
    """The board answers with `facts`, `words` on stderr and `code`; its keeper sends `events` and ends at "start"."""
    (server.home / "facts").write_text(f"{board.BOARD_MARK}{json.dumps(facts)}\n")
    (server.home / "events").write_text(events)
    (server.home / "words").write_text(words)
    # sshd names the sftp server that an installed one has; here it may have been fetched.
    found = sorted(Path(environment["GEMS_EDGE_CACHE"]).glob("arm64/sshd-*/usr/lib/openssh/sftp-server"))
    sftp = found[0] if found else '"$SSH_ORIGINAL_COMMAND"'
    (server.home / "enter").write_text(
        f"""case "$SSH_ORIGINAL_COMMAND" in
sh) cat > /dev/null; cat facts; cat words >&2; exit {code};;
*sftp-server) exec {sftp};;
esac
cat events
while read -r order; do case "$order" in st*) exit;; esac; done
"""
    )


def test_a_directory_that_holds_commands_for_sftp(start_bench, strange, environment, tmp_path):
    """Real ssh, sftp and sshd: nothing runs here, no file of this machine is taken, none is planted."""
    (tmp_path / "secret").write_text("mine")
    (strange.home / "bad").write_text("theirs")
    ran, planted, stolen = tmp_path / "ran", tmp_path / "planted", strange.home / "stolen"
    lines = [f"!touch {ran}", f"put {tmp_path}/secret {stolen}", f"get {strange.home}/bad {planted}", "!true"]
    directory = "\n".join([f'{strange.home}"', *lines, f'cd "{strange.home}'])
    kept = f"env-cp311-{hashlib.sha256(build_own_wheel(tmp_path).read_bytes()).hexdigest()[:12]}"
    facts = FACTS | {"base": str(strange.home), "kept": [kept]}
    events = [{"say": ESCAPE}, {"directory": directory}]
    said = "".join(f"{job.EVENT_MARK.decode()}{json.dumps(event)}\n" for event in events)
    enter(strange, facts=facts, environment=environment, events=said)
    process = start_bench(strange.config, "--keep", "--reconnect", 2)
    out, err = process.communicate(timeout=60)
    assert not ran.exists() and not planted.exists() and not stolen.exists(), err
    assert process.returncode == 1 and out == "" and "copying to board failed" in err.splitlines()[-1], err
    assert "title" in err and all(line.isprintable() for line in err.split("\n"))


def test_what_a_board_says_on_stderr_reaches_the_terminal_as_a_plain_line(refused, strange, environment):
    enter(strange, facts=FACTS, environment=environment, words="it \x1b[2Jis\x9b31m", code=3)
    message = refused(strange.config, code=1)
    assert message == "board: sh failed (it ?[2Jis?31m)"
