"""The guide to training loops of one's own shows the script as it is, and the script goes on training after the cut."""

import re
from pathlib import Path

import pytest
import torch as th

import rl_crop
from scripts import custom_loop

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "custom_loops.md").read_text(), flags=re.DOTALL)
WHOLE = [block for block in BLOCKS if block.startswith("import")]
EXCERPTS = [block for block in BLOCKS if block not in WHOLE]


@pytest.fixture
def cuts(monkeypatch):
    """What every call of prune_policy was given, its report, and the policy's parameters right after it."""
    found, prune = [], rl_crop.prune_policy

    def recorded(policy, **keywords):
        report = prune(policy, **keywords)
        found.append((policy, keywords, report, [p.detach().clone() for p in policy.parameters()]))
        return report

    monkeypatch.setattr(rl_crop, "prune_policy", recorded)
    return found


def moved(tensors, before):
    return all(not th.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))


@pytest.mark.parametrize("excerpt", EXCERPTS)
def test_excerpts_are_lines_of_the_script(excerpt):
    script = (ROOT / "scripts" / "custom_loop.py").read_text()
    indents = {re.sub(r"^", " " * depth, excerpt, flags=re.MULTILINE).rstrip() for depth in (0, 4, 8)}
    assert any(f"\n{text}\n" in script for text in indents)


def test_every_tensor_moves_after_the_cut(cuts):
    args = custom_loop.Args(n_timesteps=1024, width=16, n_epochs=2, n_episodes=1, sparsity=0.6)
    result = custom_loop.main(args)
    [(policy, keywords, report, before)] = cuts
    assert result["policy"] is policy and len(keywords["batches"]) == 2
    assert 0.6 <= min(report.sparsity.values()) and report.n_params_after == sum(p.numel() for p in policy.parameters())
    assert moved(policy.parameters(), before)
    assert [p.shape for p in result["average"].parameters()] == [p.shape for p in policy.parameters()]
    [optimizer] = keywords["optimizers"]
    for parameter, state in optimizer.state.items():
        assert state["exp_avg"].shape == parameter.shape
    assert result["policy_return"] > 0 and result["average_return"] > 0


@pytest.mark.parametrize("block", WHOLE)
def test_whole_examples_run(block, cuts):
    exec(compile(block.replace("8_000", "400").replace("256, 256", "16, 16"), "docs/custom_loops.md", "exec"), {})
    [(policy, _, report, before)] = cuts
    assert report.sparsity["actor"] >= 0.9 and report.sparsity["critic"] >= 0.8
    assert moved(policy.parameters(), before)
    assert policy.net_arch["pi"] != [16, 16]


def test_a_compiled_loss_sees_the_new_shapes():
    envs = custom_loop.make_vec_env("CartPole-v1", n_envs=8, seed=0)
    policy = custom_loop.ActorCriticPolicy(envs.observation_space, envs.action_space, lambda _: 1e-3, net_arch=[16, 16])
    rollout, _, _ = custom_loop.collect(policy, envs, envs.reset(), custom_loop.Args())
    compiled = th.compile(custom_loop.ppo_loss, backend="eager")
    for _ in range(2):
        losses = [loss(policy, rollout, 0.2, 0.01) for loss in (compiled, custom_loop.ppo_loss)]
        gradients = [th.autograd.grad(loss, list(policy.parameters())) for loss in losses]
        assert all(th.allclose(one, other) for one, other in zip(*gradients, strict=True))
        rl_crop.prune_policy(policy, sparsity=0.5, batches=[rollout])
