"""What several tests of this room share."""

import handmade as hm
import pytest


@pytest.fixture
def photos(tmp_path):
    """A directory with support/, two photos of each of three kinds, and new/query/, another one of each."""
    hm.write_pictures(tmp_path / "support", *hm.pictures(3, 2))
    hm.write_pictures(tmp_path / "new", hm.pictures(3, 1, seed=1)[0], ["query"] * 3)
    return tmp_path
