"""gems-edge verify of bundles and states, and what adapt, predict and bench do with a trust file."""

import json

import pytest
from board import assert_refused, gems_edge, handmade  # noqa: F401
from signing import make_key, sign, trust_line, write_signed

from gems_edge.device.bundle import read_bundle
from gems_edge.device.selftest import make_selftest


@pytest.fixture
def here(tmp_path, gems_edge):  # noqa: F811
    """p.gems, release 5 of plates, signed by a key of `makers`; o.gems, release 4; photos of three kinds."""
    key = make_key(tmp_path / "maker")
    write_signed(tmp_path / "p.gems", key, release=5)
    write_signed(tmp_path / "o.gems", key, release=4)
    (tmp_path / "makers").write_text(trust_line(key, "plates"))
    handmade.write_pictures(tmp_path / "photos", *handmade.pictures(3, 2))
    return tmp_path


def parts(result):
    return {part["name"]: part for part in json.loads(result.out)["parts"]}


def damaged(result, message):
    """The table, or the document, is there all the same."""
    assert result.code == 2 and result.out and "Traceback" not in result.err
    assert result.err.startswith("gems-edge: ") and message in result.err, result.err


def test_a_whole_bundle(gems_edge, here):  # noqa: F811
    result = gems_edge("verify", "p.gems", "--trust", "makers", "--json")
    document = json.loads(result.out)
    assert result.code == 0 and document["kind"] == "bundle" and document["whole"] and document["rescue"] is None
    assert document["trusted"] and (document["product"], document["release"]) == ("plates", 5)
    assert document["signed_by"].startswith("SHA256:")
    assert parts(result).keys() >= {"manifest.json", "manifest.sha256", "manifest.json.sig", "adapt.onnx"}
    text = gems_edge("verify", "p.gems")
    assert text.code == 0 and text.out.count("  whole") == 8 and "whose that is was not checked" in text.out
    assert not (here / "makers.releases").exists()  # it was looked at, not opened


def test_a_bundle_that_is_not_whole(gems_edge, here):  # noqa: F811
    (here / "p.gems/adapt.onnx").write_bytes(b"x")
    (here / "p.gems/predict.onnx").unlink()
    result = gems_edge("verify", "p.gems", "--json")
    damaged(result, "copy predict.onnx, adapt.onnx again; all else is whole")
    assert {name for name, part in parts(result).items() if not part["whole"]} == {"adapt.onnx", "predict.onnx"}
    text = gems_edge("verify", "p.gems")
    assert text.out.count("not whole") == 2 and "predict.onnx is missing" in text.out


@pytest.mark.parametrize("content", [b"", b"{}", b"[1,", b"\xff", b'{"format": "gems-edge-bundle"}'])
def test_no_manifest(gems_edge, here, content):  # noqa: F811
    (here / "p.gems/manifest.json").write_bytes(content)
    damaged(gems_edge("verify", "p.gems"), "copy the whole bundle again")


def test_a_manifest_that_was_altered(gems_edge, here):  # noqa: F811
    """Without its signature the checksum tells; with one that an attacker made to fit, the signature does."""
    manifest = (here / "p.gems/manifest.json").read_text().replace('"inverted": false', '"inverted": true ')
    (here / "p.gems/manifest.json").write_text(manifest)
    result = gems_edge("verify", "p.gems", "--json")
    damaged(result, "altered")
    assert not parts(result)["manifest.sha256"]["whole"] and not parts(result)["manifest.json.sig"]["whole"]
    handmade.write_manifest(here / "p.gems", manifest)
    result = gems_edge("verify", "p.gems", "--trust", "makers", "--json")
    damaged(result, "is not the signature of its manifest")
    assert parts(result).keys() == {"manifest.sha256", "manifest.json.sig"}  # the manifest was not parsed
    (here / "p.gems/manifest.json.sig").unlink()
    assert gems_edge("verify", "p.gems").code == 0
    damaged(gems_edge("verify", "p.gems", "--trust", "makers"), "is not signed")


def test_whose_it_is(gems_edge, here):  # noqa: F811
    sign(here / "p.gems", make_key(here / "other"))
    result = gems_edge("verify", "p.gems", "--trust", "makers", "--json")
    damaged(result, "does not trust")
    assert json.loads(result.out)["trusted"] is False
    assert_refused(gems_edge("adapt", "p.gems", "--trust", "makers", "--support", "photos", "-o", "s"), "not trust")
    assert not (here / "s").exists()
    assert gems_edge("verify", "p.gems", "--trust", "none").code == 2


def test_commands_with_a_trust_file(gems_edge, here, monkeypatch):  # noqa: F811
    adapt = ("adapt", "--support", "photos", "--steps", 1, "-o")
    first = gems_edge(*adapt, "o.state", "o.gems", "--trust", "makers")
    assert first.code == 0 and "no trust file" not in first.err
    assert gems_edge(*adapt, "p.state", "p.gems", "--trust", "makers").code == 0
    predict = ("predict", "o.gems", "--state", "o.state", "photos/kind 1", "--json")
    assert_refused(gems_edge(*predict, "--trust", "makers"), "is release 4 of 'plates', and release 5 was opened here")
    assert_refused(gems_edge("bench", "o.gems", "--trust", "makers"), "release 5 was opened here")
    damaged(gems_edge("verify", "o.gems", "--trust", "makers"), "release 5 was opened here")
    assert gems_edge("verify", "o.gems", "--trust", "makers", "--allow-older").code == 0
    allowed = gems_edge(*predict, "--trust", "makers", "--allow-older")
    assert allowed.code == 0 and len(json.loads(allowed.out)) == 2
    untrusting = gems_edge(*predict)  # what one call is told is not there for the next
    assert untrusting.code == 0 and untrusting.err.count("no trust file") == 1
    monkeypatch.setenv("GEMS_EDGE_TRUST", "makers")
    assert_refused(gems_edge(*predict), "release 5 was opened here")
    assert_refused(gems_edge("evaluate", "o.gems", "--episodes", 2), "release 5 was opened here")
    assert_refused(gems_edge("report", "o.gems", "-o", "page.html"), "release 5 was opened here")


def test_reading_commands_take_a_trust_file(gems_edge, here):  # noqa: F811
    evaluate, report = ("evaluate", "p.gems", "--data", "glyphs"), ("report", "p.gems", "-o", "page.html")
    (here / "others").write_text("")
    for command in (evaluate, report):
        assert_refused(gems_edge(*command, "--trust", "others"), "others does not trust")
    assert "who made the bundle is not checked" in gems_edge(*report).err
    assert gems_edge(*report, "--trust", "makers").err == ""
    assert_refused(gems_edge("report", "o.gems", "--trust", "makers"), "release 5 was opened here")
    older = gems_edge("report", "o.gems", "-o", "page.html", "--trust", "makers", "--allow-older")
    assert older.code == 0


def test_a_trust_file_that_may_not_be_read(gems_edge, here, monkeypatch):  # noqa: F811
    def forbidden(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("gems_edge.device.trust.open", forbidden, raising=False)
    assert_refused(gems_edge("bench", "p.gems", "--trust", "makers"), "no permission for makers")


def test_a_state(gems_edge, here):  # noqa: F811
    for _ in range(2):
        assert gems_edge("adapt", "p.gems", "--support", "photos", "--steps", 1, "-o", "s.state").code == 0
    result = gems_edge("verify", "s.state", "--json")
    document = json.loads(result.out)
    assert result.code == 0 and document["kind"] == "state" and document["whole"] and document["generation"] == 2
    assert "generation 1: 3 classes from 6 images" in parts(result)["a.safetensors"]["about"]
    (here / "s.state/b.safetensors").write_bytes(b"x")
    damaged(gems_edge("verify", "s.state"), "generation 1 is whole and is what is read")
    (here / "s.state/a.safetensors").write_bytes(b"x")
    damaged(gems_edge("verify", "s.state"), "nothing is left: run gems-edge adapt again")


def test_the_photos_of_a_state(gems_edge, here):  # noqa: F811
    gems_edge("adapt", "p.gems", "--support", "photos", "-o", "s.state")
    photos = here / "s.state/photos"
    result = gems_edge("verify", "s.state", "--json")
    assert result.code == 0 and "6 photos" in parts(result)["photos"]["about"]
    first, second, third, *_ = sorted(photos.iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    second.unlink()
    third.rename(photos / f"{0:032x}.safetensors")  # another's name: no slot asks for it
    result = gems_edge("verify", "s.state", "--json")
    damaged(result, "3 of 6 photos are lost: teaching goes on without them; add them again with gems-edge teach --add")
    lost = {name for name, part in parts(result).items() if not part["whole"]}
    assert lost == {f"photos/{file.name}" for file in (first, second, third)}
    assert "is named by no slot" in parts(result)[f"photos/{0:032x}.safetensors"]["about"]
    assert gems_edge("predict", "p.gems", "--state", "s.state", "photos/kind 0").code == 0


def test_what_is_neither(gems_edge, here):  # noqa: F811
    (here / "empty").mkdir()
    for path, message in (("none", "does not exist"), ("empty", "no bundle, no state, no run")):
        assert_refused(gems_edge("verify", path), message)


def test_names_that_would_move_the_cursor(gems_edge, here):  # noqa: F811
    handmade.edit_manifest(here / "p.gems", lambda manifest: manifest["files"].update({"\x1b[2J": {}}))
    result = gems_edge("verify", "p.gems")
    damaged(result, "outside the bundle")
    assert "\x1b" not in result.out + result.err


def test_a_self_test_that_runs(gems_edge, here):  # noqa: F811
    bundle = handmade.write_bundle(here / "b.gems")
    test = make_selftest(read_bundle(bundle))
    assert "none: exported by an earlier gems-edge" in gems_edge("verify", "b.gems", "--run").out
    handmade.replace_file(bundle, "selftest.safetensors", test)
    result = gems_edge("verify", "b.gems", "--run", "--json")
    assert result.code == 0 and parts(result)["self-test"]["about"].startswith("fp32 off by")
    handmade.write_bundle(here / "c.gems", seed=1)
    handmade.replace_file(here / "c.gems", "selftest.safetensors", test)
    assert gems_edge("verify", "c.gems").code == 0
    damaged(gems_edge("verify", "c.gems", "--run"), "answers its self-test otherwise than where it was exported")
    assert_refused(gems_edge("verify", "photos/x.state", "--run"), "no bundle")
