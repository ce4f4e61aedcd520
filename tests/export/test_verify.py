"""The check of a bundle feeds what a step hands to the next, from the bundle's start on."""

from types import SimpleNamespace

import handmade as hm
import numpy as np
import pytest
import torch

from gems_edge.device.bundle import read_bundle
from gems_edge.device.learner import adapt_session
from gems_edge.export.verify import update_errors


@pytest.mark.parametrize("decay", [None, 0.25])
def test_errors_of_every_step(tmp_path, decay):
    bundle = read_bundle(hm.write_bundle(tmp_path / "h.gems", head="per-class", decay=decay))
    session, images = adapt_session(bundle, 1), hm.pictures(3, 2)[0]
    index = np.repeat(np.arange(3), 2)
    support = SimpleNamespace(
        images=torch.from_numpy(images.transpose(0, 3, 1, 2) / np.float32(255)),
        targets=torch.eye(3)[index],
    )
    rule = SimpleNamespace(adapted=lambda names: hm.PARTS["maml"])
    start = bundle.weights | bundle.start_weights(3)
    after = [
        {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in weights.items()}
        for weights in (hm.reference(start, images, index, n, hm.PARTS["maml"], decay or 1.0)[0] for n in range(4))
    ]
    carried = bundle.start_carried()
    for step in range(3):
        errors, following = update_errors(session, after[step], after[step + 1], support, rule, carried)
        assert len(errors) == 2 and max(errors) < 1e-3
        if decay is None:
            assert following == {}
            continue
        np.testing.assert_allclose(following[hm.CARRIED], hm.RATE * decay ** (step + 1), rtol=1e-6)
        stale = update_errors(session, after[step], after[step + 1], support, rule, bundle.start_carried())[0]
        assert step == 0 or min(stale) > 1
        carried = following
