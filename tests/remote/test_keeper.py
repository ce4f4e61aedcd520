import fcntl

from gems_edge.remote import keeper


def test_what_a_power_cut_left_is_removed_and_what_is_in_use_is_not(tmp_path):
    """A keeper that lives holds its directory's lock; one that ended holds nothing."""
    for name in ("run-dead", "run-alive"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    (tmp_path / "env-kept").mkdir()
    with open(tmp_path / "run-alive" / "lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        keeper.sweep(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"run-alive", "env-kept"}
