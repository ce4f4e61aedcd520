"""What camera programs hand to Learner.read_images: every kind of one picture gives the same pixels."""

import io
import pickle

import handmade as hm
import numpy as np
import pytest
from PIL import Image

from gems_edge.device import Learner
from gems_edge.errors import UserError

FRAME = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def learner(request, tmp_path):
    return Learner.load(hm.write_bundle(tmp_path / "h.gems", channels=request.param), threads=1)


def test_every_kind_of_picture_gives_the_same_pixels(learner, tmp_path):
    Image.fromarray(FRAME).save(tmp_path / "p.png")
    content = (tmp_path / "p.png").read_bytes()
    kinds = [
        tmp_path / "p.png", str(tmp_path / "p.png"), content, bytearray(content), memoryview(content),
        Image.open(io.BytesIO(content)), FRAME, FRAME / 255,
    ]  # fmt: skip
    pixels = learner.read_images(kinds)
    assert pixels.shape == (8, hm.SIZE, hm.SIZE, learner.bundle.channels) and len(np.unique(pixels)) > 50
    assert all((each == pixels[0]).all() for each in pixels)
    np.testing.assert_array_equal(learner.read_images([FRAME[..., ::-1]], order="BGR")[0], pixels[0])
    np.testing.assert_array_equal(learner.read_images(FRAME[None])[0], pixels[0])
    assert learner.read_images([]).shape == (0, *pixels.shape[1:])


def test_grey_frames_and_transparent_pictures(learner):
    grey = learner.read_images([FRAME[..., 0], FRAME[..., :1]])
    assert (grey[0] == grey[1]).all()
    clear = learner.read_images([Image.new("RGBA", (20, 20))])
    assert (clear == 255).all()


@pytest.mark.parametrize(
    "one",
    ["p.png", b"\x89PNG", bytearray(b"x"), FRAME, FRAME[..., 0], Image.new("L", (9, 9))],
    ids=lambda one: type(one).__name__,
)
def test_one_picture_is_no_list(learner, one):
    with pytest.raises(UserError, match="put it into a list"):
        learner.read_images(one)


@pytest.mark.parametrize(
    "bad, words",
    [
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((0, 4), np.uint8), "shape"),
        (np.full((4, 4), 2.0), "0…1"),
        (np.full((4, 4), np.nan), "0…1"),
        (np.zeros((4, 4), np.int32), "int32"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_picture_is_told(learner, bad, words):
    with pytest.raises(UserError, match=words):
        learner.read_images([bad])


def test_what_holds_no_pictures_is_told(learner):
    with pytest.raises(UserError, match="holds no pictures"):
        learner.read_images(None)
    with pytest.raises(UserError, match="order"):
        learner.read_images([FRAME], order="GRB")


def test_verbs_take_files_bytes_and_pillow_images(learner, tmp_path):
    kinds = [tmp_path / f"{number}.png" for number in range(4)]
    for number, file in enumerate(kinds):
        Image.fromarray(np.roll(FRAME, 5 * number, axis=1)).save(file)
    given = [kinds[0], str(kinds[1]), kinds[2].read_bytes(), Image.open(kinds[3])]
    labels, pixels = ["cup", "mug", "cup", "mug"], learner.read_images(kinds)
    learner.adapt(given[:2], labels[:2])
    learner.teach(given[2:], labels[2:])
    copied = pickle.loads(pickle.dumps(learner))
    expected = Learner(learner.bundle, 1)
    expected.adapt(pixels, labels)
    for each in (learner, copied):
        np.testing.assert_array_equal(each.predict(given), expected.predict(pixels))
        assert [a.name for a in each.answers(tuple(given))] == [a.name for a in expected.answers(pixels)]


@pytest.mark.parametrize(
    "given, words",
    [
        ("p.png", "put it into a list"),
        ([FRAME], "read_images makes them from files and camera frames"),
        ([FRAME, FRAME[:9]], "with Learner.read_images"),
        (FRAME[..., 0], "shape"),
        (["none.png"], "none.png"),
        ([], "shape"),
        (None, "shape"),
    ],
)
def test_what_is_no_list_of_pictures_is_told_by_every_verb(learner, given, words):
    for verb in (learner.predict, learner.answers, lambda images: learner.adapt(images, ["cup"])):
        with pytest.raises(UserError, match=words):
            verb(given)
