"""What a pruning owes: whether a sparsity can be reached, and whether the result meets it by the fewest units."""

from collections.abc import Mapping

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from lab.fuzzing.checks import check
from lab.fuzzing.drawing import Combination
from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.pruning.allocation import Budget
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.sb3.agent import plan_policy_pruning

Target = Mapping[str, float]


class Account:
    """
    The units and budgets of an agent before it is cut.

    :param agent: an algorithm, or a bare policy.
    :param chosen: how it will be pruned.
    :raises PruningError: it has nothing to prune.
    """

    def __init__(self, agent: BaseAlgorithm | BasePolicy, chosen: Combination) -> None:
        plan = plan_policy_pruning(agent, 0.0, criterion="magnitude", compensation="none")
        self.graph, subject = plan.graph, plan.subject
        self.chosen = chosen
        self.parameters = {network.name: network.parameters for network in subject.networks}
        self.groups = {
            name: [group.name for group in self.graph.groups.values() if group.tensors("out")[0] in own]
            for name, own in self.parameters.items()
        }
        self.trained = [name for name, value in subject.trained.tensors.items() if isinstance(value, th.nn.Parameter)]
        self.shapes = {name: tuple(value.shape) for name, value in subject.trained.tensors.items()}
        self.units = {name: group.n_units for name, group in self.graph.groups.items()}
        least = max(int(chosen.settings["min_units"]), 1)  # a share lets every layer go down to one unit to reach the sparsity
        self.lowest = {name: min(n, least) for name, n in self.units.items()}
        self.floor = self.lowest | self._shares(agent)

    def targets(self) -> Target:
        """:return: the sparsity of every network that is to be pruned."""
        given, networks = self.chosen.sparsity, self.chosen.networks
        if isinstance(given, dict):
            return given
        return dict.fromkeys(networks or [name for name, groups in self.groups.items() if groups], given)

    def refused(self) -> str | None:
        """:return: why a documented rule refuses the combination, or ``None``."""
        settings, targets = self.chosen.settings, self.targets()
        if settings["scope"] == "global" and (self.chosen.networks or isinstance(self.chosen.sparsity, dict)):
            return "scope='global' with a sparsity by network"
        if not all(self.groups.get(name) for name in targets):
            return "the network named has no units"
        if self.chosen.algorithm == "ARS" and settings["criterion"] not in ("magnitude", "random", "span", "synflow"):
            return "criterion needs a gradient"
        return None

    def reachable(self) -> bool | None:
        """:return: whether the sparsity can be reached; ``None`` where that depends on which features are removed."""
        at_best = all(budget.sparsity(self.lowest) >= share - 1e-12 for budget, share, _ in self._budgets())
        alone = all(
            budget.sparsity({name: self.lowest[name] for name in groups}) >= share - 1e-12
            for budget, share, groups in self._budgets()
        )
        return at_best if at_best == alone else None

    def one_width(self) -> bool | None:
        """
        :return: whether one width of the layers that must have one lets every network meet its share, and none overshoot by
            more than a unit; ``None`` where a share is met in steps, or together with other networks.
        """
        if not self.graph.one_width:
            return True
        if self.chosen.schedule != "one_shot" or self.chosen.settings["scope"] == "global" or self.groups.get("features"):
            return None
        (layers,) = self.graph.one_width.values()
        budgets = [(budget, share, groups) for budget, share, groups in self._budgets() if share]
        dense, cut = self.units[layers[0]], {name for _, _, groups in budgets for name in groups}

        def fits(width: int) -> bool:
            here, above = dict.fromkeys(layers, width), dict.fromkeys(layers, width + 1)
            for budget, share, groups in budgets:
                lowest = {name: self.lowest[name] for name in groups}
                if not set(groups).isdisjoint(layers) and budget.sparsity({**lowest, **here}) < share - 1e-12:
                    return False
                if width < dense and budget.sparsity(above) >= share:
                    return False
            return True

        widths = range(self.lowest[layers[0]], dense + 1) if cut.issuperset(layers) else [dense]
        return not cut.intersection(layers) or any(map(fits, widths))

    def _shares(self, agent: BaseAlgorithm | BasePolicy) -> dict[str, int]:
        """Units that stay by a floor that is a share of equal shares; none where these change as the cut goes on."""
        settings, share = self.chosen.settings, self.chosen.settings["min_units"]
        one_cut = self.chosen.schedule == "one_shot" and settings["scope"] == "network" and not self.groups.get("features")
        if share >= 1 or not one_cut or self.graph.one_width or self.refused() or not self.reachable():
            return {}
        equal = plan_policy_pruning(
            agent, self.chosen.sparsity, scope="layer", criterion="magnitude", compensation="none",
            networks=self.chosen.networks, budget=settings["budget"],
        ).kept_units  # fmt: skip
        return {name: max(int(share * len(kept)), 1) for name, kept in equal.items()}

    def _budgets(self) -> list[tuple[Budget, float, list[str]]]:
        """Budget, target and groups of every network; of all together under the global scope."""
        targets, kind = self.targets(), self.chosen.settings["budget"]
        if self.chosen.settings["scope"] == "global":
            parameters = frozenset().union(*(self.parameters[name] for name in targets))
            groups = [group for name in targets for group in self.groups[name]]
            return [(Budget(self.graph, parameters, kind), next(iter(targets.values())), groups)]
        return [(Budget(self.graph, self.parameters[name], kind), share, self.groups[name]) for name, share in targets.items()]

    def check_cut(self, policy: BasePolicy, widths: Mapping[str, tuple[int, int]], n_params: int) -> None:
        """
        :param policy: after the cut.
        :param widths: of the report, by layer: before and after.
        :param n_params: of the report, after.
        :raises CheckError: shapes, parameters or sparsities are not what they must be.
        """
        after = dict(self.units)
        for name, (_, left) in widths.items():
            after[name] = left // self.graph.groups[name].outputs.shape[1]
        tensors = named_tensors(policy)
        for name, shape in self.shapes.items():
            expected = list(shape)
            for group, slot in self.graph.slots_of(name):
                expected[slot.axis] -= (self.units[group.name] - after[group.name]) * slot.index.shape[1]
            found = tuple(tensors[name].shape)
            check(found == tuple(expected), f"{name} has the shape {found}, the report means {tuple(expected)}")
        counted = sum(tensors[name].numel() for name in self.trained)
        check(counted == n_params, f"the report counts {n_params} parameters, the policy has {counted}")
        few = {name: left for name, left in after.items() if left < self.floor[name]}
        check(not few, f"{few} units are fewer than min_units={self.chosen.settings['min_units']} leaves: {self.floor}")
        owned = [name for _, share, groups in self._budgets() if share for name in groups]
        spared = [name for name in self.units if name not in owned and after[name] != self.units[name]]
        check(not spared, f"{spared} were to stay whole")
        for budget, share, groups in self._budgets():
            self._check_sparsity(budget, share, groups, after)

    def _check_sparsity(self, budget: Budget, share: float, groups: list[str], after: dict[str, int]) -> None:
        reached = budget.sparsity(after)
        check(reached >= share - 1e-9, f"{groups}: sparsity {reached:.4f} is below {share}")
        removed = [name for name in groups if after[name] < self.units[name]]
        # A cut of the features takes columns from what reads them, which may be more than that network was to lose.
        if not removed or (self.groups.get("features") and self.chosen.schedule != "one_shot"):
            return
        layered = self.chosen.settings["scope"] == "layer"
        one_more = [{name: after[name] + 1 for name in removed}] if layered else [{name: after[name] + 1} for name in removed]
        lowest = min(budget.sparsity({**after, **more}) for more in one_more)
        check(lowest < share + 1e-9, f"{groups}: sparsity {reached:.4f} overshoots {share} by more than a unit")


def values_of(plan: PruningPlan) -> list[dict[str, list[np.ndarray]]]:
    """:return: for the trained copy and every target: by name, the tensor and optimizer state of its shape, copied."""
    slots = {id(parameter): slot for optimizer in plan.subject.optimizers for parameter, slot in optimizer.state.items()}

    def with_moments(tensor: th.Tensor) -> list[np.ndarray]:
        moments = [value for value in slots.get(id(tensor), {}).values() if isinstance(value, th.Tensor)]
        return [value.detach().numpy().copy() for value in (tensor, *moments) if value.shape == tensor.shape]

    return [{name: with_moments(tensor) for name, tensor in copy.tensors.items()} for copy in plan.subject.copies]


def check_slices(plan: PruningPlan, before: list[dict[str, list[np.ndarray]]]) -> None:
    """
    :param plan: applied, without compensation.
    :param before: :func:`values_of` the plan before it was applied.
    :raises CheckError: a tensor is not what it was without the removed units.
    """
    gone = {name: np.setdiff1d(np.arange(plan.graph.groups[name].n_units), kept) for name, kept in plan.kept_units.items()}
    for old, new in zip(before, values_of(plan), strict=True):
        for name, values in old.items():
            removed: dict[int, list[np.ndarray]] = {}
            for group, slot in plan.graph.slots_of(name):
                removed.setdefault(slot.axis, []).append(slot.index[gone.get(group.name, [])].ravel())
            for value, found in zip(values, new[name], strict=True):
                for axis, places in removed.items():
                    value = np.delete(value, np.concatenate(places).astype(int), axis)
                check(np.array_equal(value, found, equal_nan=True), f"{name} is not what it was without the removed units")
