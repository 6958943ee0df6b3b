"""Attention of torch: heads are cut as the masked twin says, again and again, and torch's fast paths do not mind."""

import copy

import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.attention import NarrowAttention
from rl_crop.core.prune import plan_pruning, prune_model
from rl_crop.core.pruning.surgery import Transaction, keep_index, select
from tests.zoo.networks import Calls, batches, mse, train
from tests.zoo.oracles import MaskedTwin, count_removed

SEQUENCE = (5, 3)
CAUSAL = th.triu(th.ones(5, 5, dtype=th.bool), 1)


def attend(call=None, **arguments):
    """Self-attention beside a residual stream, without a norm."""
    return Calls(
        lambda m, x: m.c((lambda h: h + m.m(h, h, h, **(call or {}))[0])(th.tanh(m.a(x))).mean(1)),
        a=nn.Linear(3, 12), m=nn.MultiheadAttention(12, 4, batch_first=True, **arguments), c=nn.Linear(12, 2),
    )  # fmt: skip


def padded(m, x):
    h = th.tanh(m.a(x)).transpose(0, 1)
    padding = th.arange(5) > 2 + th.arange(len(x))[:, None] % 3
    return m.c(m.m(h, h, h, key_padding_mask=padding, attn_mask=CAUSAL)[0].mean(0))


NETWORKS = {
    "weights": attend,
    "no weights": lambda: attend({"need_weights": False}, bias=False),
    "causal": lambda: attend({"attn_mask": CAUSAL, "is_causal": True, "need_weights": False}),
    "keys of its own": lambda: attend(add_bias_kv=True, add_zero_attn=True),
    "padding, time first": lambda: Calls(padded, a=nn.Linear(3, 12), m=nn.MultiheadAttention(12, 4), c=nn.Linear(12, 2)),
    "without a batch": lambda: Calls(
        lambda m, x: m.c(th.stack([m.m(h, h, h)[0].mean(0) for h in th.tanh(m.a(x))])),
        a=nn.Linear(3, 12), m=nn.MultiheadAttention(12, 4), c=nn.Linear(12, 2),
    ),
    "of three inputs": lambda: Calls(
        lambda m, x: m.c(m.m(th.tanh(m.q(x)), m.k(x), m.v(x))[0].mean(1)), q=nn.Linear(3, 12), k=nn.Linear(3, 7),
        v=nn.Linear(3, 9), m=nn.MultiheadAttention(12, 4, kdim=7, vdim=9, batch_first=True), c=nn.Linear(12, 2),
    ),
}  # fmt: skip


def momentum(model):
    """Steps of Adam would make something of gradients that are zero but for rounding, such as those of the keys' biases."""
    return th.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_cut_network_trains_like_its_masked_twin(name):
    model, data = NETWORKS[name](), batches(SEQUENCE, n=6)
    optimizer = momentum(model)
    train(model, optimizer, data)
    for share in (0.5, 0.4):
        plan = plan_pruning(model, mse, data, share, compensation="none", optimizers=[optimizer], scope="layer")
        twin = MaskedTwin(model, plan)
        follower = momentum(twin.model)
        follower.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        removed, _ = count_removed(model, plan)
        report = plan.apply()
        assert report.n_params_before - report.n_params_after == removed > 0
        for _ in range(2):
            gap = max((model(x) - twin.model(x)).abs().max().item() for x, _ in data)
            model.eval(), twin.model.eval()
            with th.no_grad():
                gap = max(gap, *((model(x) - twin.model(x)).abs().max().item() for x, _ in data))
            assert gap < 1e-12
            model.train(), twin.model.train()
            train(model, optimizer, data)
            train(twin.model, follower, data, twin.hold)
        for (key, own), dense in zip(model.named_parameters(), twin.model.parameters(), strict=True):
            assert th.allclose(own, select(dense, keep_index(plan.graph, key, plan.kept_units)), atol=1e-12)
    assert type(model.m) is NarrowAttention and model.m.num_heads < 4 and model.m.out_proj.in_features == 3 * model.m.num_heads


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoders_lose_heads_units_and_the_width_of_their_stream(norm_first):
    layer = nn.TransformerEncoderLayer(12, 4, 16, batch_first=True, norm_first=norm_first)
    model = Calls(
        lambda m, x: m.c(m.e(th.tanh(m.a(x)), src_key_padding_mask=th.arange(5).expand(len(x), 5) > 3).mean(1)),
        a=nn.Linear(3, 12), e=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), c=nn.Linear(12, 2),
    )  # fmt: skip
    data = batches(SEQUENCE)
    inner = plan_pruning(model, mse, data, 0.5, compensation="none", ignore=["a"])  # norms change what a twin computes
    twin = MaskedTwin(model, inner).model.eval()
    inner.apply()
    assert {name.rpartition(".")[2] for name in inner.keep} == {"self_attn", "linear1"}
    with th.no_grad():
        assert max((model.eval()(x) - twin(x)).abs().max().item() for x, _ in data) < 1e-12
    report = prune_model(model, mse, data, 0.3, scope="layer")
    assert report.widths["a"][1] == model.e.layers[1].norm2.weight.numel() == model.e.layers[0].self_attn.embed_dim < 12
    with th.no_grad():
        assert model.eval()(data[0][0]).isfinite().all()


def test_an_encoder_that_nests_tensors_does_so_no_longer():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1)
    padding = th.arange(5) > 3
    model = Calls(
        lambda m, x: m.c(m.e(m.a(x), src_key_padding_mask=padding.expand(len(x), 5))[:, 0]),
        a=nn.Linear(3, 8),
        e=encoder,
        c=nn.Linear(8, 2),
    )
    data = batches(SEQUENCE, n=6)
    prune_model(model, mse, data, 0.5, scope="layer")
    assert type(encoder.layers[0].self_attn) is NarrowAttention and not encoder.use_nested_tensor
    with th.no_grad():
        model.eval()(data[0][0])


class Own(nn.MultiheadAttention):
    """Knows the number of its heads in a way of its own."""

    def __init__(self, width, heads):
        super().__init__(width, heads, batch_first=True)


WHOLE = {
    "of its own": lambda: Calls(lambda m, h: m.m(h, h, h)[0], m=Own(8, 2)),
    "by head": lambda: Calls(
        lambda m, h: m.m(h, h, h, average_attn_weights=False)[0], m=nn.MultiheadAttention(8, 2, batch_first=True)
    ),
}


@pytest.mark.parametrize("why", WHOLE)
def test_what_depends_on_the_number_of_heads_is_left_whole(why):
    model = Calls(
        lambda m, x: m.c(th.tanh(m.b(m.inner(m.a(x))[:, 0]))), a=nn.Linear(3, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 2)
    )
    model.inner = WHOLE[why]()
    report = prune_model(model, mse, batches(SEQUENCE, n=6), 0.3)
    assert why in report.untouched["inner.m"] and model.inner.m.num_heads == 2


def test_a_cut_that_fails_gives_the_class_back():
    model, data = attend(), batches(SEQUENCE, n=6)
    plan = plan_pruning(model, mse, data, 0.5, scope="layer")
    with pytest.raises(KeyboardInterrupt), Transaction() as transaction:
        plan.apply(transaction)
        assert type(model.m) is NarrowAttention
        raise KeyboardInterrupt
    assert type(model.m) is nn.MultiheadAttention and model.m.num_heads == 4 and model.m._qkv_same_embed_dim
    mse(model, data[0]).backward()


def by_head(x):
    return x.view(*x.shape[:2], -1, 3).transpose(1, 2)


def separate(m, x):
    h = th.tanh(m.a(x))
    out = F.scaled_dot_product_attention(by_head(m.q(h)), by_head(m.k(h)), by_head(m.v(h)), is_causal=True)
    return m.c((h + m.o(out.transpose(1, 2).flatten(2))).mean(1))


def chunked(m, x, width=-1):
    h = th.tanh(m.a(x))
    out = F.scaled_dot_product_attention(*(by_head(part) for part in m.qkv(h).chunk(3, -1)))
    return m.c((h + m.o(out.transpose(1, 2).reshape(*h.shape[:2], width))).mean(1))


def fused(m, x):
    h = th.tanh(m.a(x))
    q, k, v = m.qkv(h).unflatten(-1, (3, -1, 3)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) * 3**-0.5).masked_fill(CAUSAL, -1e9).softmax(-1)
    return m.c((h + m.o((weights @ v).transpose(1, 2).reshape(*h.shape[:2], -1))).mean(1))


def fixed_number(m, x):
    h = th.tanh(m.a(x))
    q, k, v = (part.view(*part.shape[:2], 4, 3).transpose(1, 2) for part in m.qkv(h).chunk(3, -1))
    return m.c((h + m.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))).mean(1))


def narrower_heads(m, x):
    h = th.tanh(m.a(x))
    q, k, v = (part.view(*part.shape[:2], 4, -1).transpose(1, 2) for part in m.qkv(h).chunk(3, -1))
    return m.c((h + m.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))).mean(1))


def of_ones_own(forward):
    inner = {name: nn.Linear(8, 12) for name in "qkv"} if forward is separate else {"qkv": nn.Linear(8, 36)}
    return Calls(forward, a=nn.Linear(3, 8), **inner, o=nn.Linear(12, 8), c=nn.Linear(8, 2))


@pytest.mark.parametrize("forward", [separate, chunked, fused])
def test_attention_that_leaves_the_number_of_heads_open_loses_heads(forward):
    model, data = of_ones_own(forward), batches(SEQUENCE, n=6)
    plan = plan_pruning(model, mse, data, 0.5, compensation="none", scope="layer")
    twin = MaskedTwin(model, plan).model
    plan.apply()
    assert model.o.in_features == 6 and set(plan.keep) == {"a", "q" if forward is separate else "qkv"}
    assert max((model(x) - twin(x)).abs().max().item() for x, _ in data) < 1e-12
    prune_model(model, mse, data, 0.3, criterion="obs_crop")


@pytest.mark.parametrize("forward", [fixed_number, narrower_heads, lambda m, x: chunked(m, x, 12)])
def test_sizes_that_are_written_into_attention_leave_it_whole(forward):
    model = of_ones_own(forward)
    report = prune_model(model, mse, batches(SEQUENCE, n=6), 0.3)
    whole = ("goes through", "sets the scale of attention", "the forward pass expects its width")
    assert report.untouched["qkv"].startswith(whole) and model.o.in_features == 12 and model.a.out_features < 8
