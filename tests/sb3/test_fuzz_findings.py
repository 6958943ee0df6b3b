"""What random combinations have found, each as a small case."""

import pytest
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from rl_crop import prune_policy
from tests.zoo.agents import AGENTS, SCORING


class Extractor(BaseFeaturesExtractor):
    """Two linear layers, of which only the first may be cut where actor and critic have one each."""

    def __init__(self, observation_space, features_dim=10):
        super().__init__(observation_space, features_dim)
        self.layers = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, features_dim), nn.Tanh())

    def forward(self, observations):
        return self.layers(observations)


@pytest.mark.parametrize("lstm", [{}, {"enable_critic_lstm": False}])
def test_recurrent_agents_with_an_extractor_each(lstm):
    kwargs = {"features_extractor_class": Extractor, "share_features_extractor": False, **lstm}
    model = AGENTS["recurrent"](n_epochs=1, policy_kwargs=kwargs)
    model.learn(64)
    report = prune_policy(model, 0.5, criterion="random", **SCORING)
    for extractor in (model.policy.pi_features_extractor, model.policy.vf_features_extractor):
        assert extractor.layers[0].out_features < 12
        assert extractor.layers[2].out_features == extractor.features_dim == 10  # one number for both
    assert any("one features_dim" in reason for reason in report.untouched.values())
    model.learn(64, reset_num_timesteps=False)
