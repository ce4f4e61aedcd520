"""What a run from pretrained weights takes where its user says nothing, and that the user's own word wins."""

from dataclasses import replace

import pytest

from gems_edge.cli.options import given_config
from gems_edge.meta.settings.pretrained import default_config
from gems_edge.meta.settings.run import TrainConfig

LITE0 = {"backbone": "efficientnet-lite0", "init": "pretrained"}


def resolved(**said):
    return given_config(default_config(said), said)


def test_without_pretrained_weights_nothing_changes():
    assert resolved() == TrainConfig() and resolved(backbone="efficientnet-lite0").learn_from == ""


def test_two_words_are_enough():
    config = resolved(**LITE0)
    assert (config.head, config.normalization, config.steps, config.learn_from) == (
        "prototype",
        "frozen",
        0,
        "blocks.11",
    )
    assert (config.image_size, config.train_ways, config.ways, config.keep_features > 0) == (128, 10, 5, True)


@pytest.mark.parametrize(
    "said",
    [{"image_size": 96}, {"lr": 0.01}, {"keep_features": 0.0}, {"learn_from": "blocks.13"}, {"steps": 2}, {"ways": 3},
     {"meta_batch": 8}, {"train_ways": 0}, {"iterations": 5}],
)  # fmt: skip
def test_what_is_said_wins(said):
    config = resolved(**LITE0, **said)
    assert all(getattr(config, name) == value for name, value in said.items())


def test_a_named_method_takes_a_step_and_another_head_its_own_defaults():
    assert resolved(**LITE0, method="anil").steps == 1
    shared = resolved(**LITE0, head="shared")
    assert (shared.head, shared.steps, shared.train_ways) == ("shared", 1, 0)
    support = resolved(**LITE0, normalization="support")
    assert (support.normalization, support.learn_from) == ("support", "")


def test_of_several_kinds_each_has_a_task_and_more_is_free_to_move():
    one, three = resolved(**LITE0), resolved(**LITE0, data=("folder:a", "folder:b", "folder:c"))
    assert (one.meta_batch, three.meta_batch) == (1, 3) and 0 < three.keep_features < one.keep_features
    each = resolved(**LITE0, data=("folder:a", "folder:b"), method="multi-maml")  # a model for each kind
    assert (each.meta_batch, each.keep_features) == (1, one.keep_features)


def test_auto_is_the_mode_that_it_stands_for():
    assert resolved(**LITE0, normalization="auto") == resolved(**LITE0)


def test_training_episodes_have_no_fewer_classes_than_are_asked_for():
    assert resolved(**LITE0, ways=12).training_ways == 12 and resolved(**LITE0, ways=3).training_ways == 10


def test_a_ticket_has_no_features_to_keep_and_channels_go_from_the_whole_network():
    ticket = resolved(**LITE0, ticket_method="mwt")
    assert (ticket.keep_features, ticket.learn_from) == (0.0, "blocks.11")
    assert resolved(**LITE0, ticket_method="mwt", ticket_unit="channel").learn_from == ""


def test_what_starts_at_random_has_no_trunk():
    pretrained = resolved(**LITE0)
    anew = given_config(pretrained, {"init": "random"})
    assert (anew.learn_from, anew.normalization) == ("", "support")
    assert given_config(pretrained, {"init": "random", "learn_from": "blocks.2", "normalization": "group"}).splits
    assert given_config(replace(anew, learn_from="blocks.2", normalization="group"), {"init": "random"}).splits
