"""
RecurrentPPO: every transition carries the LSTM's state before it, which is cut along with the LSTM's hidden units.

That state is given, not computed: gradients of what follows the LSTM are those of training, and those of the LSTM, and of
what comes before it, lack the paths through earlier steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import BaseModel

from rl_crop.core.errors import PruningError
from rl_crop.core.model import mapped
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.sb3.batches import Prepared
from rl_crop.sb3.networks import Hyperparameters, Place, PolicyNetworks
from rl_crop.sb3.policies.actor_critic import as_trained, assemble

ONE_SIZE = "sb3-contrib has one lstm_hidden_size for actor and critic"
STATES = ("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf")
"""States before each transition, shape (n, layers, hidden size), as a ``RecurrentRolloutBuffer`` names them."""


def recurrent_actor_critic(policy: Any, hyper: Hyperparameters) -> PolicyNetworks:
    """
    :param policy: a ``RecurrentActorCriticPolicy``.
    :param hyper: of the algorithm.
    :return: its parts; observations are mappings with ``"observations"``, ``"episode_starts"`` and :data:`STATES`.
    """

    def state_of(observed: Mapping[str, Any], kind: str) -> tuple[th.Tensor, ...]:
        return tuple(observed[f"{name}_states_{kind}"].swapaxes(0, 1).contiguous() for name in ("hidden", "cell"))

    def remembered(observed: Mapping[str, Any], features: th.Tensor, lstm: th.nn.LSTM, kind: str) -> th.Tensor:
        return policy._process_sequence(features, state_of(observed, kind), observed["episode_starts"].flatten(), lstm)[0]

    def latents(observed: Mapping[str, Any], actor: bool = True, critic: bool = True) -> tuple[Any, Any]:
        latent_pi = latent_vf = None
        if actor or policy.shared_lstm:
            features = BaseModel.extract_features(policy, observed["observations"], policy.pi_features_extractor)
            latent_pi = remembered(observed, features, policy.lstm_actor, "pi")
        if critic and policy.shared_lstm:
            latent_vf = latent_pi.detach()  # type: ignore[union-attr]
        elif critic:
            features = BaseModel.extract_features(policy, observed["observations"], policy.vf_features_extractor)
            separate = policy.lstm_critic
            latent_vf = policy.critic(features) if separate is None else remembered(observed, features, separate, "vf")
        return (
            policy.mlp_extractor.forward_actor(latent_pi) if actor else None,
            policy.mlp_extractor.forward_critic(latent_vf) if critic else None,
        )

    def trained(observed: Mapping[str, Any], actions: th.Tensor) -> Any:
        from sb3_contrib.common.recurrent.type_aliases import RNNStates

        states, starts = RNNStates(state_of(observed, "pi"), state_of(observed, "vf")), observed["episode_starts"].flatten()
        return policy.evaluate_actions(observed["observations"], as_trained(policy, actions), states, starts)

    hidden = policy.lstm_actor.hidden_size

    def kwargs() -> dict[str, Any]:
        width = policy.lstm_actor.hidden_size
        return {} if width == hidden else {"lstm_hidden_size": width}

    beside = policy.critic.weight if policy.critic is not None else None
    if policy.lstm_critic is not None:
        beside = policy.lstm_critic.weight_ih_l0
    before = {"actor": (policy.lstm_actor,), "critic": tuple(m for m in (policy.lstm_critic, policy.critic) if m is not None)}
    parts = assemble(
        policy, hyper, latents, trained, before, lambda observed: observed["observations"],
        stored=STATES, kwargs=kwargs, follow=follow_states, prepare=lambda batch: with_states(policy, batch),
        one_width={} if beside is None else {ONE_SIZE: [(policy.lstm_actor.weight_hh_l0, 1), (beside, 0)]},
    )  # fmt: skip

    def sizes() -> list[Place]:
        layers, width = policy.lstm_actor.num_layers, policy.lstm_actor.hidden_size
        own = [(policy, "lstm_output_dim", width), (policy, "lstm_hidden_state_shape", (layers, 1, width))]
        return [*parts.sizes(), *own]

    return replace(parts, sizes=sizes)


def follow_states(
    transaction: Transaction, model: Any, held: Sequence[Mapping[str, Any]], stays: Mapping[str, np.ndarray]
) -> None:
    """
    Cut the states that observations, the rollout buffer and a running agent hold.

    :param transaction: remembers every change.
    :param model: the algorithm, if any.
    :param held: observations with :data:`STATES`; their tensors stay the same objects.
    :param stays: hidden units that stay, by name of a state; where the critic has no LSTM, its states are the actor's.
    """
    found = {name: stays.get(name, stays.get(name.replace("_vf", "_pi"))) for name in STATES}
    index = {name: units for name, units in found.items() if units is not None}
    for observations in held:
        for name, units in index.items():
            transaction.set_data(observations[name], _last(observations[name], units))
    if model is None:
        return
    buffer, last = model.rollout_buffer, model._last_lstm_states
    for name, units in index.items():
        transaction.set_attribute(buffer, name, getattr(buffer, name)[..., units])
        transaction.set_attribute(buffer, "hidden_state_shape", (*buffer.hidden_state_shape[:-1], len(units)))
    states = {
        kind: tuple(
            _last(state, index[name]) if (name := f"{what}_states_{kind}") in index else state
            for what, state in zip(("hidden", "cell"), getattr(last, kind), strict=True)
        )
        for kind in ("pi", "vf")
    }
    transaction.set_attribute(model, "_last_lstm_states", type(last)(**states))


def _last(states: th.Tensor, units: np.ndarray) -> th.Tensor:
    return states.index_select(-1, th.as_tensor(units, device=states.device))


def with_states(policy: Any, batch: Any) -> Any:
    """
    A batch whose observations carry the LSTM's state before each transition.

    :param policy: the recurrent policy.
    :param batch: columns of a rollout buffer (with :data:`STATES`), ``RecurrentRolloutBufferSamples`` (padded sequences,
        which are run through the LSTM), or observations without a past.
    :return: the batch with ``observations`` as a mapping.
    :raises PruningError: its states are of another size than the policy's.
    """
    fields = batch._asdict() if hasattr(batch, "_asdict") else dict(vars(batch))
    observations = fields.pop("observations")
    if isinstance(observations, Mapping) and STATES[0] in observations:
        _check_width(policy, observations[STATES[0]])
        return batch
    if "lstm_states" in fields:
        _check_width(policy, fields["lstm_states"].pi[0])
        with th.no_grad():
            return _unrolled(policy, observations, fields)
    if STATES[0] not in fields:
        first = next(iter(observations.values())) if isinstance(observations, Mapping) else observations
        layers, _, hidden = policy.lstm_hidden_state_shape
        zeros = th.zeros(len(first), layers, hidden, device=policy.device)
        fields |= {name: zeros.clone() for name in STATES} | {"episode_starts": th.ones(len(first), device=policy.device)}
    carried = {name: fields.pop(name) for name in (*STATES, "episode_starts")}
    _check_width(policy, carried[STATES[0]])
    return Prepared(observations={"observations": observations, **carried}, **fields)


def _check_width(policy: Any, states: th.Tensor) -> None:
    width, own = states.shape[-1], policy.lstm_actor.hidden_size
    if width != own:
        raise PruningError(f"The batches hold states of {width} hidden units, and the LSTM has {own}: collect new ones.")


def _unrolled(policy: Any, observations: Any, fields: dict[str, Any]) -> Any:
    """Padded sequences, taken apart: the state before each step is found by running the LSTM up to it."""
    starts, mask, states = fields.pop("episode_starts"), fields.pop("mask").flatten() > 0, fields.pop("lstm_states")
    n_sequences = states.pi[0].shape[1]
    length = len(mask) // n_sequences
    columns: dict[str, list[th.Tensor]] = {name: [] for name in STATES}
    extractors = {"pi": policy.pi_features_extractor, "vf": policy.vf_features_extractor}
    for kind, lstm in (("pi", policy.lstm_actor), ("vf", policy.lstm_critic)):
        state = getattr(states, kind)
        features = None if lstm is None else BaseModel.extract_features(policy, observations, extractors[kind])
        for step in range(length):
            for name, value in zip((f"hidden_states_{kind}", f"cell_states_{kind}"), state, strict=True):
                columns[name].append(value.swapaxes(0, 1))
            if features is not None:
                row = features.reshape(n_sequences, length, -1)[:, step]
                state = policy._process_sequence(row, state, starts.reshape(n_sequences, length)[:, step], lstm)[1]

    def real(value: Any) -> Any:
        return value.reshape(len(mask), *value.shape[1:])[mask]

    carried = {name: th.stack(values, dim=1).flatten(0, 1) for name, values in columns.items()}
    carried |= {"observations": observations, "episode_starts": starts}
    return Prepared(observations=mapped(real, carried), **{name: real(value) for name, value in fields.items()})
