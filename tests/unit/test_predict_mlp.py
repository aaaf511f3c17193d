"""The network's own operators against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from astropt_db.predict.mlp import Ensemble, Settings, _normalised


@pytest.fixture
def net():
    settings = Settings(members=3, widths=(7, 5), dropout=0.0)
    made = Ensemble(3, 4, 2, settings, np.random.default_rng(1))
    for part in made.parameters():
        nn.init.normal_(part, generator=torch.Generator().manual_seed(2))
    return made


def test_normalisation_is_torchs_and_so_is_its_gradient():
    generator = torch.Generator().manual_seed(3)
    x, gain, shift = (
        torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in ((3, 9, 5), (3, 1, 5), (3, 1, 5))
    )
    assert torch.autograd.gradcheck(lambda *a: _normalised(*a)[0], (x + 4, gain, shift))
    result, mean, variance = _normalised(x, gain, shift)
    for k in range(3):
        usual = nn.functional.batch_norm(x[k], None, None, gain[k, 0], shift[k, 0], training=True)
        torch.testing.assert_close(result[k], nn.functional.leaky_relu(usual, 0.01))
        torch.testing.assert_close(mean[k, 0], x[k].mean(0))
        torch.testing.assert_close(variance[k, 0], x[k].var(0, correction=0))


def test_folded_network_is_the_network(net):
    x = torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(4))
    for _ in range(30):  # running means and variances leave their start
        net.train()(x)
    with torch.no_grad():
        wanted = net.eval()(x).numpy()
    network = net.folded()
    for k in range(3):
        weight, bias = network.entry()
        found = network.finish(np.asarray(x[k].numpy() @ weight + bias, np.float32))
        np.testing.assert_allclose(found[:, 2 * k : 2 * k + 2], wanted[k], rtol=1e-4, atol=1e-4)


def test_members_do_not_see_what_is_hidden_from_them(net):
    net.get_buffer("sees")[1, 2:] = 0.0
    x = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        before = net.eval()(x)
        x[:, :, 2:] += 1.0
        after = net(x)
    changed = (before != after).flatten(1).any(dim=1)
    assert changed.tolist() == [True, False, True]


def test_dropout_leaves_out_its_share():
    settings = Settings(members=2, widths=(8,), dropout=0.3)
    made = Ensemble(2, 4, 1, settings, np.random.default_rng(6))
    kept = made._kept(torch.Size((2, 4000, 8)))
    values = kept.unique().tolist()
    assert values[0] == 0.0
    assert len(values) == 2
    assert float((kept == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.02)
