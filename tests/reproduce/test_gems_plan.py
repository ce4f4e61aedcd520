"""From GEMS's tables to cells: what is trained, what is shared, what is refused."""

from dataclasses import replace

import pytest
from gems_made_up import FOUR, PRESET, TWO, cells_of

from gems_edge.errors import UserError
from gems_edge.meta.settings.base import from_table
from gems_edge.meta.settings.pretrained import default_config
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.reproduce.gems import paper, plan, protocol
from gems_edge.reproduce.gems.claims import claims_of
from gems_edge.reproduce.gems.protocol import METHODS, ON_PRETRAINED, PAPER, SMALL, TINY, cut, in_root, with_data
from gems_edge.reproduce.grid import Cell
from gems_edge.reproduce.results import rows_of


def tasks(*numbers: int) -> dict[str, dict]:
    return {cell.name: cell.task for cell in cells_of(plan.parts(PRESET, numbers))}


def test_multi_maml_is_made_of_single_trainings_that_mixtures_share():
    found = tasks(1)
    assert not any("multi" in name for name in found)
    single = [name for name in found if "+" not in name and name.endswith("s1")]
    assert single == [f"{name}/maml-s1" for name in FOUR.sets]  # grocery and omniglot serve both mixtures
    assert len(found) == 3 * (4 + 2 * (len(METHODS) - 1))
    config = from_table(TrainConfig, found["grocery/maml-s2"]["config"], "test")
    assert (config.data[0].rpartition("/")[2], config.method, config.seed) == ("grocery.npz", "maml", 2)


def test_tables_1_and_2_are_the_same_cells():
    assert tasks(1) == tasks(2) == tasks(1, 2) == tasks()
    tested = tasks()["grocery+omniglot/bmp-s1"]["test"]
    assert list(tested) == [*TWO.sets, "tinyimagenet32"] and PRESET.unseen(FOUR.sets) == ("tinyimagenet32",)
    # With nothing held out, what another mixture trains is unseen (the paper's Table 2).
    assert PAPER.unseen(("cub200", "fungi")) == ("vgg102", "aircraft")


def test_variants_of_a_method_have_its_settings():
    config = tasks(1)["grocery+omniglot/bmp-rates-s1"]["config"]
    assert (config["method"], config["adapter"]["rate"]) == ("bmp", "layer")


def test_ablations_share_the_plain_cells():
    plain, sparse, steps = tasks(1), tasks(3, 4), tasks(5)
    shared = {f"grocery+omniglot/{method}-s{seed}" for method in ("maml", "mmsup") for seed in (1, 2, 3)}
    assert {name for name in sparse if name in plain} == shared
    depth = sparse["grocery+omniglot/mmsup-depth2-s1"]
    assert depth["config"]["adapter"]["sparsity"] == [0, 0.9, 0, 0, 0] and list(depth["test"]) == list(TWO.sets)
    assert sparse["grocery+omniglot/mmsup-sparsity0.3-s1"]["config"]["adapter"]["sparsity"] == [0.3]
    own = PRESET.config.steps
    assert "grocery+omniglot/bmp-s1" in steps and f"grocery+omniglot/bmp-steps{own}-s1" not in steps
    assert steps["grocery+omniglot/mmsup-steps5-s3"]["config"]["steps"] == 5
    assert [name for name in steps if "/maml" in name] == [f"grocery+omniglot/maml-steps5-s{s}" for s in (1, 2, 3)]


def test_every_config_can_be_trained():
    for task in tasks(1, 3, 4, 5).values():
        from_table(TrainConfig, task["config"], "test")
    assert all(isinstance(cell, Cell) and not cell.needs for cell in cells_of(plan.parts(PRESET)))


def test_what_is_missing_is_left_out():
    two = with_data(SMALL, {"grocery": "packed:a.npz", "omniglot": "packed:b.npz", "gtsrb": "packed:c.npz"})
    assert two.mixtures == (TWO.sets,) and two.held_out == ("gtsrb",)
    no_unseen = with_data(SMALL, {"grocery": "packed:a.npz", "omniglot": "packed:b.npz"})
    assert list(plan.parts(no_unseen)) == ["table 1"]
    with pytest.raises(UserError, match="--table 2 tests on distributions that were not trained"):
        plan.parts(no_unseen, (2,))
    with pytest.raises(UserError, match=r"add --data grocery=packed:FILE\.npz"):
        with_data(SMALL, {})
    with pytest.raises(UserError, match="the preset small has grocery, omniglot"):
        with_data(SMALL, {"mini": "packed:a.npz"})
    with pytest.raises(UserError, match="grocery and omniglot are both called a"):
        with_data(SMALL, {"grocery": "packed:x/a.npz", "omniglot": "folder:y/a"})
    with pytest.raises(UserError, match="must have no comma"):
        with_data(SMALL, {"grocery": "packed:a,b.npz"})


def test_any_sets_are_good_for_tiny():
    tiny = with_data(TINY, {"mine": "folder:mine", "yours": "folder:yours"})
    assert tiny.mixtures == (("glyphs", "mine"),) and tiny.held_out == ("yours",)
    for name in ("../x", ".."):
        with pytest.raises(UserError, match="cannot name a directory"):
            with_data(TINY, {name: "packed:x.npz"})
    with pytest.raises(UserError, match=r"needs two sets of images or more: add --data NAME="):
        with_data(TINY, {})


def test_a_preset_is_cut_to_the_time_there_is():
    assert cut(PRESET, None, None, None) == PRESET
    short = cut(PRESET, 2, 30, 50)
    (cell, *_) = plan.cells(short, plan.table(short, 1))
    assert (short.seeds, cell.task["config"]["iterations"], cell.task["episodes"]) == (2, 30, 50)
    assert cut(PRESET, None, 30, None) == replace(PRESET, config=replace(PRESET.config, iterations=30))


def test_a_directory_of_sets(tmp_path):
    (tmp_path / "grocery.npz").touch()
    (tmp_path / "omniglot").mkdir()
    found = with_data(SMALL, {}, tmp_path)
    assert found.data == {"grocery": f"packed:{tmp_path}/grocery.npz", "omniglot": f"folder:{tmp_path}/omniglot"}
    assert in_root("grocery", None) == "" and in_root("gtsrb", tmp_path) == ""
    with pytest.raises(UserError, match="is not a directory"):
        with_data(SMALL, {}, tmp_path / "grocery.npz")


def test_methods_and_tables_that_are_not_there():
    with pytest.raises(UserError, match="the preset small has tables 1 to 5"):
        plan.parts(PRESET, (6,))
    with pytest.raises(UserError, match="--method anil: table 3 has none of these"):
        plan.parts(PRESET, (3,), ("anil",))
    (trials,) = plan.parts(replace(PRESET, seeds=1), (1,), ("multi-maml",)).values()
    assert [trial.setup for trial in trials] == [TWO, FOUR]
    assert len(plan.cells(PRESET, trials)) == 4


def test_the_papers_mixtures_are_its_tables():
    assert [one.mixture for one in paper.TRAININGS] == list(PAPER.mixtures)
    whole = replace(PAPER, data=dict.fromkeys(PAPER.distributions, "packed:x"))
    for one in paper.TRAININGS:
        for sets in one.unseen.values():
            assert set(sets) <= set(whole.unseen(one.mixture))
        assert set(one.seen) == set(one.unseen) == set(one.time) == set(paper.METHODS)
    assert paper.training_on(("fungi", "cub200")).mixture == ("cub200", "fungi")
    assert paper.training_on(TWO.sets).mixture == ("cub200", "vgg102")  # as many, other sets
    assert paper.training_on(("a",)) is None
    assert tuple(paper.SPARSITY) == PAPER.sparsities and tuple(paper.STEPS["bmp"]) == PAPER.steps


# --- The preset on a pretrained network ---


def test_pretrained_cells_are_what_train_does_by_itself():
    preset = with_data(ON_PRETRAINED, {name: f"packed:{name}.npz" for name in ON_PRETRAINED.distributions})
    trials = [trial for trials in plan.parts(preset).values() for trial in trials]
    configs = {cell.name: from_table(TrainConfig, cell.task["config"], "test") for cell in plan.cells(preset, trials)}
    mixture = "grocery+gtsrb+caltech101"
    assert list(configs)[:5] == [f"{mixture}/{method}-s1" for method in ("prototypes", "maml", "anil", "bmp", "mmsup")]
    assert len(configs) == 15 and preset.unseen(preset.mixtures[0]) == ("tinyimagenet32",)
    settings = "init", "learn_from", "normalization", "head", "image_size", "lr", "meta_batch", "keep_features"
    for name, config in configs.items():
        said = {"init": "pretrained", "backbone": "efficientnet-lite0", "data": config.data, "method": config.method}
        own = default_config(said)
        assert [getattr(config, each) for each in settings] == [getattr(own, each) for each in settings], name
        assert config.steps == (0 if "prototypes" in name else 1) and config.first_order
    assert configs[f"{mixture}/prototypes-s2"].method == "maml" and preset.shots == (1, 5)
    with pytest.raises(UserError, match="--table 4: the preset pretrained has tables 1 to 2"):
        plan.parts(preset, (4,))
    with pytest.raises(UserError, match="--method boil: table 1, 2 has none of these"):
        plan.parts(preset, (), ("boil",))
    with pytest.raises(UserError, match=r"add --data gtsrb=packed:FILE\.npz --data caltech101="):
        with_data(ON_PRETRAINED, {"grocery": "packed:a.npz"})


def test_the_trained_preset_asks_for_what_its_claims_need():
    names = protocol.TRAINED.distributions
    preset = protocol.with_data(protocol.TRAINED, {name: f"packed:{name}.npz" for name in names})
    parts = plan.parts(preset)
    assert list(parts) == ["table 1", "table 2", "table 3", "table 5"]
    rows = rows_of([trial for trials in parts.values() for trial in trials], {}, preset.alpha)
    wanted = {"bmp-maml", "mmsup-between", "cross", "time", "steps", "sparsity-learned", "sparsity-falls", "control"}
    assert {claim.key for claim in claims_of(preset, rows)} >= wanted
    configs = {cell.name: cell.task["config"] for cell in plan.cells(preset, parts["table 1"])}
    adapter = configs["grocery+omniglot/rates-on-s1"]["adapter"]
    assert (adapter["rate"], adapter["mask_logit"]) == ("layer", 1000.0)
