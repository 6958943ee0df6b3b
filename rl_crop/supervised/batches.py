"""Batches of pairs, made by one look-up each."""

import torch as th
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from rl_crop.core.errors import PruningError


def batches_of(dataset: Dataset, batch_size: int, generator: th.Generator | None = None, num_workers: int = 0) -> DataLoader:
    """
    A loader of whole batches, made by one look-up each.

    :param dataset: takes a list of numbers.
    :param batch_size: pairs in a batch.
    :param generator: draws the order, without the last incomplete batch; ``None`` keeps the order, and all pairs.
    :param num_workers: processes that read ahead.
    :return: the loader.
    :raises PruningError: there are fewer pairs than one batch needs.
    """
    n_pairs = len(dataset)  # type: ignore[arg-type]
    if generator is not None and n_pairs < batch_size:
        raise PruningError(f"The training set has {n_pairs} pairs: choose a batch_size of at most that, not {batch_size}.")
    order = SequentialSampler(dataset) if generator is None else RandomSampler(dataset, generator=generator)  # type: ignore[arg-type]
    sampler = BatchSampler(order, batch_size, drop_last=generator is not None)
    return DataLoader(dataset, batch_size=None, sampler=sampler, num_workers=num_workers, generator=generator)
