import unicodedata

import numpy as np
import pytest

from gems_edge.data.episodes import make_sampler
from gems_edge.data.glyphs import (
    FACES,
    REFERENCE_FACES,
    candidates,
    distinct_classes,
    load_glyphs,
    render_faces,
    render_glyphs,
)

LIMIT = 140


@pytest.fixture(scope="module")
def glyphs():
    return render_glyphs(LIMIT)


def test_set_is_well_formed(glyphs):
    count = len(glyphs.label)
    assert glyphs.images.shape == (count, 28, 28, 1) and glyphs.images.dtype == np.uint8 and glyphs.inverted
    assert len(set(glyphs.classes)) == len(glyphs.classes) >= 50
    assert glyphs.class_sizes().min() >= 24
    for class_id in range(len(glyphs.classes)):
        faces = np.unique(glyphs.group[glyphs.label == class_id])
        assert len(faces) >= 8 and (faces // len(FACES) == class_id).all()


def test_ink_is_bright_on_black_and_never_missing(glyphs):
    images = glyphs.images[..., 0]
    assert (images.max((1, 2)) == 255).all()
    ink = (images > 127).sum((1, 2))
    assert ink.min() >= 8 and np.median(ink) < 28 * 28 / 2
    assert np.median(images[:, [0, -1]]) == 0


def test_five_shots_and_fifteen_queries_share_no_face(glyphs):
    sampler = make_sampler(glyphs, "train", 5, 5, 15, 0)
    for task in range(20):
        episode = sampler.draw(0, task)
        for support, query in zip(glyphs.group[episode.support.reshape(5, 5)], glyphs.group[episode.query]):
            assert not set(support) & set(query) and len(set(support)) >= 3


def test_deterministic(glyphs):
    again = render_glyphs(LIMIT)
    assert np.array_equal(again.images, glyphs.images) and np.array_equal(again.split, glyphs.split)
    assert not np.array_equal(render_glyphs(LIMIT, seed=1).images, glyphs.images)


def test_variants_of_a_face_differ(glyphs):
    flat = glyphs.images.reshape(len(glyphs.images), -1)
    assert len(np.unique(flat, axis=0)) == len(flat)


def test_lookalikes_are_one_class():
    characters = ["A", "Α", "А", "B", "o", "O", "ο", "Z"]  # Latin, Greek, Cyrillic A; Latin o, O, Greek omicron
    kept = distinct_classes(*render_faces(characters, REFERENCE_FACES))
    assert [characters[i] for i in kept] == ["A", "B", "o", "Z"]


def test_no_blanks_and_no_compatibility_variants():
    found = candidates()
    assert {" ", "\u00a0", "\u200b", "²", "ﬁ", "⠿", "─"}.isdisjoint(found) and {"A", "ß", "Ж", "∀"} <= set(found)
    _, present = render_faces(["\u2800", "A"], REFERENCE_FACES[:1])
    assert present[:, 0].tolist() == [False, True]


def test_one_outline_in_two_faces_counts_once():
    # The black square is the same in most faces, an A is not.
    _, present = render_faces(["A", "■"], FACES)
    assert present[0].sum() > present[1].sum() >= 1


def test_accents_and_case_stay_in_one_split():
    glyphs = render_glyphs(400)
    split_of: dict[str, set[str]] = {}
    for name, split in zip(glyphs.classes, glyphs.split):
        base = unicodedata.normalize("NFD", chr(int(name.split()[0][2:], 16)))[0].casefold()
        split_of.setdefault(base, set()).add(split)
    assert all(len(splits) == 1 for splits in split_of.values())
    share = [(glyphs.split == split).mean() for split in ("train", "val", "test")]
    assert np.abs(np.array(share) - (0.64, 0.12, 0.24)).max() < 0.1


def test_cache_holds_the_set_exactly(cache):
    first = load_glyphs(limit=20)
    assert [path.name for path in cache.iterdir()] == ["glyphs-v1-first20.npz"]
    again = load_glyphs(limit=20)
    for field in ("images", "label", "split", "group"):
        assert np.array_equal(getattr(first, field), getattr(again, field)), field
    assert (first.name, first.classes, first.inverted, first.source) == (
        again.name,
        again.classes,
        again.inverted,
        again.source,
    )
