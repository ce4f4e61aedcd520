"""A bundle that learns by gradient steps tells foreign objects by distances: export and the board measure the same."""

import json

import numpy as np

from gems_edge.data.mixture import load_mixture
from gems_edge.device import Learner
from gems_edge.export.foreign import samplers_for, tasks_of
from gems_edge.export.source import ExportOptions, Reports, open_source

EPISODES = 10


def test_the_board_finds_what_the_export_measured(small_run, small_bundle):
    unknown = json.loads((small_bundle / "manifest.json").read_text())["unknown"]
    areas = {each["kind"]: each["area"] for each in unknown["candidates"]}
    assert areas["distance"] == max(areas.values()) and unknown["score"]["kind"] == "distance"
    expected = next(each for each in unknown["validation"] if (each["photos"], each["classes"]) == (5, 5))
    options = ExportOptions(ratio=0.0, recover_iterations=0, round_to=1, seed=1, episodes=EPISODES)
    source = open_source(small_run, options, Reports(say=lambda text: None))
    learner, images = Learner.load(small_bundle, threads=1), load_mixture(source.config.data, image_size=28, channels=1)
    [sampler] = samplers_for(source, "val", 5, 5)
    kept, refused = [], []
    for task in tasks_of(sampler, unknown["episodes"]):
        learner.adapt(images.images[task.indices.support], task.indices.labels.tolist())
        kept += [answer.known for answer in learner.answers(images.images[task.indices.query.reshape(-1)])]
        refused += [not answer.known for answer in learner.answers(images.images[task.foreign])]
    assert abs(np.mean(kept) - expected["kept"]) < 0.02 and abs(np.mean(refused) - expected["refused"]) < 0.02
