"""Random combinations of agent and pruning, each built, trained, cut and checked; hypothesis draws, shrinks and remembers."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, reject, settings

from lab.fuzzing.drawing import Combination, combinations
from lab.fuzzing.trial import NotBuilt, run


def fuzz(
    max_examples: int,
    algorithm: str | None = None,
    tell: Callable[[Combination, str], object] = lambda chosen, verdict: None,
    **options: Any,
) -> Counter[str]:
    """
    Try random combinations. A failure is shrunk, and raised as hypothesis reports it; it comes first the next time.

    :param max_examples: how many are tried.
    :param algorithm: of all agents; any by default.
    :param tell: is told each verdict at once, those of shrinking too.
    :param options: further settings of hypothesis.
    :return: how often each verdict was found, see :func:`~lab.fuzzing.trial.run`; agents that could not be built count as
        ``"not built: "`` and the reason.
    """
    counts: Counter[str] = Counter()

    @settings(max_examples=max_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow], **options)
    @given(combinations(algorithm))
    def try_one(chosen: Combination) -> None:
        verdict = "failed"
        try:
            verdict = run(chosen)
        except NotBuilt as error:
            verdict = f"not built: {error}"
            reject()
        finally:
            counts[verdict] += 1
            tell(chosen, verdict)

    try_one()
    return counts
