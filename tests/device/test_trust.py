"""Whose bundles are opened, with real keys and the real ssh-keygen."""

import json
import os
import shutil
import subprocess
from functools import partial

import handmade as hm
import pytest
from signing import NAMESPACE, make_key, sign, ssh_keygen, trust_line, write_signed

from gems_edge.device import Learner, openssh
from gems_edge.device.bundle import bundle_files, read_bundle
from gems_edge.device.manifest import Product
from gems_edge.device.trust import ANYBODY, Trust, highest_releases, remember_release
from gems_edge.errors import UserError


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    place = tmp_path_factory.mktemp("keys")
    return {name: make_key(place / name) for name in ("maker", "other")}


@pytest.fixture
def trust(tmp_path, keys):
    (tmp_path / "makers").write_text(trust_line(keys["maker"], "plates,fruit-*", f'namespaces="{NAMESPACE}"'))
    return Trust(tmp_path / "makers")


@pytest.fixture
def bundle(tmp_path, keys):
    return write_signed(tmp_path / "p.gems", keys["maker"])


def refused(path, trust, message):
    with pytest.raises(UserError, match=message):
        read_bundle(path, trust)


def test_a_signed_bundle_is_opened_and_its_release_is_remembered(bundle, trust):
    opened = read_bundle(bundle, trust)
    assert opened.product == Product("plates", 1) and highest_releases(trust.file) == {"plates": 1}
    assert "manifest.json.sig" in bundle_files(opened)  # so a copy stays signed
    Learner.load(bundle, 1, trust=trust)


def test_our_signature_is_one_for_ssh_keygen(tmp_path, keys, trust):
    content = b'{"any": "bytes"}\n'
    (tmp_path / "s").write_bytes(openssh.sign(content, keys["maker"]))
    verify = partial(ssh_keygen, "-Y", "verify", "-f", trust.file, "-I", "fruit-2", "-s", tmp_path / "s")
    verify("-n", NAMESPACE, input=content)
    for namespace, changed in ((NAMESPACE, content + b" "), ("file", content)):
        with pytest.raises(subprocess.CalledProcessError):
            verify("-n", namespace, input=changed)


def test_unsigned_and_foreign(bundle, trust, keys, tmp_path):
    sign(bundle, keys["other"])
    refused(bundle, trust, "is signed by SHA256:.*, which .*makers does not trust")
    (bundle / "manifest.json.sig").unlink()
    refused(bundle, trust, "is not signed")
    read_bundle(bundle, ANYBODY)


def test_revoked_keys_that_are_no_file_end_in_one_line(bundle, trust):
    """A pipe is not waited for."""
    revoked = trust.file.with_name("makers.revoked")
    for make, message in (
        (os.mkfifo, "is not a plain file, but a FIFO"),
        (os.mkdir, "cannot be read .Is a directory"),
        (lambda path: os.symlink("/nowhere", path), "cannot be read .No such file"),
    ):
        make(revoked)
        refused(bundle, trust, f"makers.revoked {message}")
        revoked.rmdir() if revoked.is_dir() else revoked.unlink()
    read_bundle(bundle, trust)


def test_another_product(tmp_path, keys, trust):
    for product, fits in (("fruit-7", True), ("locks", False)):
        path = write_signed(tmp_path / f"{product}.gems", keys["maker"], product)
        if fits:
            read_bundle(path, trust)
        else:
            refused(path, trust, "is product 'locks', which .*makers does not let SHA256")
    assert highest_releases(trust.file) == {"fruit-7": 1}


def test_no_product_at_all(tmp_path, keys, trust):
    sign(hm.write_bundle(tmp_path / "h.gems"), keys["maker"])
    refused(tmp_path / "h.gems", trust, "names no product and release")


def test_a_signature_for_another_purpose(bundle, keys, trust):
    sign(bundle, keys["maker"], "file")
    refused(bundle, trust, "namespace does not match")


def test_every_byte_of_manifest_and_signature_counts(bundle, trust):
    """A few of each: a check takes some 30 ms. The manifest is given a checksum that fits, as an attacker would."""
    for file in ("manifest.json", "manifest.json.sig"):
        content = (bundle / file).read_bytes()
        for position in range(40, len(content) - 40, len(content) // 7):
            changed = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
            write = partial(hm.write_manifest, bundle) if file == "manifest.json" else (bundle / file).write_text
            write(changed.decode())
            refused(bundle, trust, "is not the signature of its manifest")
            write(content.decode())
    read_bundle(bundle, trust)


def test_what_is_not_trusted_is_not_parsed(bundle, trust):
    hm.write_manifest(bundle, "[" * 100)
    refused(bundle, trust, "is not the signature of its manifest")
    refused(bundle, ANYBODY, "not valid JSON")


def test_files_that_are_no_signature(bundle, trust):
    file = bundle / "manifest.json.sig"
    for content in ("", "garbage", "x" * 20_000):
        file.write_text(content)
        refused(bundle, trust, "not the signature of|larger than")
    file.unlink()
    os.mkfifo(file)
    refused(bundle, trust, "is not a plain file, but a FIFO")


def test_older_releases(tmp_path, keys, trust):
    paths = {n: write_signed(tmp_path / f"{n}.gems", keys["maker"], release=n) for n in (2, 10, 9)}
    read_bundle(paths[2], trust)
    read_bundle(paths[10], trust)
    refused(paths[9], trust, "is release 9 of 'plates', and release 10 was opened here.*--allow-older")
    read_bundle(paths[9], Trust(trust.file, allow_older=True))
    refused(paths[9], trust, "release 10 was opened here")  # an exception does not lower it
    read_bundle(paths[10], trust)


def test_a_damaged_memory_of_releases_is_refused(bundle, trust):
    remember_release(Product("plates", 41), trust.file)
    file = trust.file.with_name("makers.releases")
    content = file.read_text()
    for damaged in (content.replace("41", "1"), content[:-20], "{}", "[]", '{"releases": {"plates": "1"}}'):
        file.write_text(damaged)
        refused(bundle, trust, "makers.releases is damaged")
    file.write_text(content)
    refused(bundle, trust, "release 41 was opened")


def test_a_release_that_cannot_be_remembered_is_not_opened(bundle, trust, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gems_edge.device.trust.write_atomic", full)
    refused(bundle, trust, "makers.releases cannot be written .No space left.*would not be remembered")
    monkeypatch.undo()
    read_bundle(bundle, trust)
    monkeypatch.setattr("gems_edge.device.trust.write_atomic", full)
    read_bundle(bundle, trust)  # nothing is new, so nothing is written: the directory may be read-only


def test_a_power_cut_leaves_the_old_memory_or_the_new(trust, monkeypatch):
    remember_release(Product("plates", 1), trust.file)

    def cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            remember_release(Product("plates", 2), trust.file)
    assert highest_releases(trust.file) == {"plates": 1}
    remember_release(Product("plates", 2), trust.file)
    remember_release(Product("fruit", 1), trust.file)
    assert highest_releases(trust.file) == {"plates": 2, "fruit": 1}


def test_revoked_and_expired_keys(bundle, trust, keys):
    revoked = trust.file.with_name("makers.revoked")
    shutil.copy(keys["maker"].with_name("maker.pub"), revoked)
    refused(bundle, trust, "makers.revoked revokes")
    shutil.copy(keys["other"].with_name("other.pub"), revoked)
    read_bundle(bundle, trust)
    revoked.write_text("no key\n")
    refused(bundle, trust, "makers.revoked revokes")  # what cannot be read lets nothing in
    revoked.unlink()
    trust.file.write_text(trust_line(keys["maker"], "*", 'valid-before="20200101"'))
    refused(bundle, trust, "key has expired")


def test_a_rotation(bundle, trust, keys, tmp_path):
    """Both keys are trusted for a while, then the new one."""
    new = write_signed(tmp_path / "new.gems", keys["other"], release=2)
    lines = {name: trust_line(keys[name], "plates") for name in keys}
    trust.file.write_text("# the old key, and the new one\n" + lines["maker"] + lines["other"])
    read_bundle(bundle, trust)
    read_bundle(new, trust)
    trust.file.write_text(lines["other"])
    refused(bundle, trust, "does not trust")
    read_bundle(new, trust)


def test_no_other_kind_of_key(bundle, trust, tmp_path):
    rsa = make_key(tmp_path / "rsa", kind="rsa")
    sign(bundle, rsa)
    trust.file.write_text(trust_line(rsa))
    refused(bundle, trust, "with a key of kind RSA")
    with pytest.raises(UserError, match="is a key of kind RSA; make one with ssh-keygen -t ed25519"):
        openssh.sign(b"", rsa)


def test_keys_that_cannot_sign(tmp_path, keys):
    locked, open_to_all = make_key(tmp_path / "locked", "secret"), make_key(tmp_path / "open")
    open_to_all.chmod(0o644)
    for key, why in (
        (locked, "it has a passphrase.*ssh-add"),
        (open_to_all, "others may read it"),
        (tmp_path / "none", "No such file"),
        (tmp_path, "cannot sign"),
    ):
        with pytest.raises(UserError, match=why):
            openssh.sign(b"", key)


def test_trust_files_that_are_none(bundle, tmp_path):
    refused(bundle, Trust(tmp_path / "none"), "the trust file .*none does not exist")
    refused(bundle, Trust(tmp_path), "is no file")
    (tmp_path / "empty").write_text("")
    refused(bundle, Trust(tmp_path / "empty"), "does not trust")
    (tmp_path / "broken").write_text("plates ssh-ed25519 AAAA\n")
    refused(bundle, Trust(tmp_path / "broken"), "does not trust")


def test_without_ssh_keygen_nothing_is_trusted(bundle, trust, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    refused(bundle, trust, "need ssh-keygen, which is not installed")
    read_bundle(bundle, ANYBODY)


def test_the_environment_names_the_trust_file(bundle, trust, monkeypatch):
    monkeypatch.setenv("GEMS_EDGE_TRUST", str(trust.file))
    remember_release(Product("plates", 5), trust.file)
    refused(bundle, None, "release 5 was opened")
    monkeypatch.setenv("GEMS_EDGE_ALLOW_OLDER", "1")
    read_bundle(bundle)
    assert json.loads((trust.file.with_name("makers.releases")).read_text())["releases"] == {"plates": 5}
