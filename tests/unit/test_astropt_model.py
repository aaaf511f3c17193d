"""The transformer: causality, chaining, losses, and that it learns."""

import math

import pytest
import torch

from astropt_db.astropt.model import AstroPT, Modality, ModelConfig

IMAGES, SED = Modality("images", 12), Modality("sed", 3, loss_weight=0.5)


def model_of(*modalities, **options) -> AstroPT:
    torch.manual_seed(0)
    settings = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32, **options}
    model = AstroPT(ModelConfig(tuple(modalities), **settings))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5 if weight.ndim > 1 else 1)  # far from the identity it starts as
    return model.eval()


@pytest.mark.parametrize("kind", ["relu", "aim", "affine"])
def test_no_state_sees_a_later_token(kind):
    model = model_of(IMAGES, tokeniser=kind)
    tokens = torch.randn(1, 20, 12)
    changed = tokens.clone()
    changed[:, 11:] += 1
    with torch.inference_mode():
        a, b = model.hidden({"images": tokens}), model.hidden({"images": changed})
    torch.testing.assert_close(a[:, :11], b[:, :11], rtol=0, atol=1e-6)
    assert (a[:, 11:] - b[:, 11:]).abs().amax(dim=2).min() > 1e-4


def test_chain_with_a_lead():
    model = model_of(IMAGES, SED, lead=8)
    tokens = {"images": torch.randn(2, 20, 12), "sed": torch.randn(2, 4, 3)}
    runs = [(s.name, s.start, s.stop, s.offset) for s in model.segments(tokens)]
    assert runs == [("images", 0, 8, 0), ("sed", 0, 4, 8), ("images", 8, 20, 12)]
    short = {"images": tokens["images"][:, :8], "sed": tokens["sed"]}
    with torch.inference_mode():
        whole, part = model.hidden(tokens), model.hidden(short)
        torch.testing.assert_close(whole[:, :12], part, rtol=0, atol=1e-6)
        alone = model.hidden({"images": tokens["images"]})
    torch.testing.assert_close(alone[:, :8], whole[:, :8], rtol=0, atol=1e-6)
    assert [s.name for s in model.segments({"sed": tokens["sed"]})] == ["sed"]


@pytest.mark.parametrize("block", [None, 0, 1])
@pytest.mark.parametrize("bias", [False, True])
def test_an_average_of_states_needs_no_states(block, bias):
    """The last layer sees the average alone; with weights whose sum is 1 its bias counts once."""
    model = model_of(IMAGES, bias=bias)
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.3 * torch.randn_like(one) if one.ndim == 1 else 0)
    tokens = {"images": torch.randn(3, 20, 12)}
    weights = torch.rand(20)
    weights /= weights.sum()

    def average(states):
        return torch.einsum("t,ntw->nw", weights, states)

    rows = []
    model.blocks[1 if block is None else block].mlp.c_proj.register_forward_hook(
        lambda _layer, given, _result: rows.append(given[0].shape)
    )
    with torch.inference_mode():
        found = model.hidden(tokens, block=block, average=average)
        wanted = average(model.hidden(tokens, block=block))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert [tuple(shape) for shape in rows] == [(3, 64), (3, 20, 64)]


@pytest.mark.parametrize("lead", [0, 8])
def test_losses_are_next_token_huber_by_direct_formula(lead):
    model = model_of(IMAGES, SED, lead=lead)
    tokens = {"images": torch.randn(2, 20, 12), "sed": torch.randn(2, 4, 3)}
    order = [("images", i) for i in range(lead or 20)] + [("sed", i) for i in range(4)]
    order += [("images", i) for i in range(lead or 20, 20)]
    wanted = {"images": [], "sed": []}
    with torch.inference_mode():
        states = model.ln_f(model.hidden(tokens))
        for place, (name, index) in enumerate(order[1:], start=1):
            gap = model.decoders[name](states[:, place - 1]) - tokens[name][:, index]
            huber = torch.where(gap.abs() < 1, gap**2 / 2, gap.abs() - 0.5)
            wanted[name].append(huber)
        found, total = model.losses(tokens), model(tokens)
    means = {name: float(torch.stack(parts).mean()) for name, parts in wanted.items()}
    assert len(wanted["images"]) == 19
    assert {name: float(loss) for name, loss in found.items()} == pytest.approx(means, rel=1e-5)
    assert float(total) == pytest.approx((means["images"] + 0.5 * means["sed"]) / 2, rel=1e-5)


def test_weights_leave_values_out_of_the_loss():
    model = model_of(IMAGES)
    tokens = torch.randn(2, 20, 12)
    weights = torch.ones(2, 20, 12)
    weights[:, -1] = 0
    spoilt = tokens.clone()
    spoilt[:, -1] = 1e6
    with torch.inference_mode():
        masked = model({"images": spoilt}, weights={"images": weights})
        torch.testing.assert_close(masked, model({"images": tokens[:, :-1]}))
        one = model({"images": tokens}, weights={"images": torch.ones(1)})
        torch.testing.assert_close(one, model({"images": tokens}))
        none = model({"images": tokens}, weights={"images": torch.zeros(1)})
    assert float(none) == 0.0


def test_gradients_flow_and_values_agree_with_and_without_them():
    model = model_of(IMAGES, SED, lead=8)
    tokens = {"images": torch.randn(2, 20, 12), "sed": torch.randn(2, 4, 3)}
    loss = model(tokens)
    loss.backward()
    silent = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert silent == []
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens), loss.detach())


def test_it_learns_what_can_be_predicted():
    """Tokens that repeat their predecessor: the loss falls far below that of the mean."""
    torch.manual_seed(1)
    config = ModelConfig(
        (IMAGES,), n_layer=2, n_head=2, n_embd=32, block_size=16, tokeniser="affine"
    )
    model = AstroPT(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        tokens = torch.randn(32, 1, 12).expand(-1, 12, -1)
        loss = model({"images": tokens})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    of_mean = float(torch.nn.functional.huber_loss(tokens, torch.zeros_like(tokens)))
    assert float(loss.detach()) < 0.3 * of_mean


def test_start_is_that_of_gpt_2():
    torch.manual_seed(0)
    model = AstroPT(ModelConfig((IMAGES,), n_layer=8, n_head=4, n_embd=128, block_size=64))
    assert float(model.blocks[0].attn.c_attn.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    narrow = float(model.blocks[3].mlp.c_proj.weight.detach().std())
    assert narrow == pytest.approx(0.02 / math.sqrt(16), rel=0.05)
    assert float(model.encoders["images"][0].bias.detach().abs().max()) == 0.0


def test_configuration_survives_json_and_refuses_nonsense():
    config = ModelConfig((IMAGES, SED), n_layer=3, lead=8, tokeniser="aim")
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="at least one modality"):
        ModelConfig(())
    with pytest.raises(ValueError, match="not a multiple"):
        ModelConfig((IMAGES,), n_embd=10, n_head=3)


def test_misuse_is_named():
    model = model_of(IMAGES, block_size=16)
    with pytest.raises(ValueError, match="17 images tokens, but 16 positions"):
        model.hidden({"images": torch.zeros(1, 17, 12)})
    valued = model_of(IMAGES, Modality("spectra", 5, position_size=1))
    with pytest.raises(ValueError, match="'spectra' needs real-valued positions"):
        valued.hidden({"images": torch.zeros(1, 4, 12), "spectra": torch.zeros(1, 2, 5)})
    full = model_of(IMAGES, attention="full")
    with pytest.raises(ValueError, match="only causal models"):
        full({"images": torch.zeros(1, 4, 12)})
