"""Text, character by character: given the ones so far, which comes next."""

from collections.abc import Sequence
from pathlib import Path

import torch as th
from torch.utils.data import Dataset

from lab.supervised.data import Data, existing_file
from rl_crop.core.errors import PruningError


class Windows(Dataset):
    """
    Stretches of a text, and the same stretches one character later.

    :param codes: the characters' numbers, int64.
    :param length: characters in a stretch.
    :param stride: from the start of one to the start of the next.
    """

    def __init__(self, codes: th.Tensor, length: int, stride: int) -> None:
        if len(codes) <= length:
            raise PruningError(f"A part of the text has {len(codes)} characters: too few for length={length}.")
        self.windows = codes.unfold(0, length + 1, stride)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int | Sequence[int]) -> tuple[th.Tensor, th.Tensor]:
        window = self.windows[index if isinstance(index, int) else list(index)]
        return window[..., :-1], window[..., 1:]


def text(source: str = "topics", n_characters: int = 200_000, length: int = 64) -> Data:
    """
    The first 80 % of a text to learn from, 10 % for validation, the last 10 % for the test.

    :param source: ``"topics"``, the help texts that ship with Python (they differ a little from version to version), or the
        path of a text file.
    :param n_characters: how much of it.
    :param length: characters that a model sees at once.
    :return: stretches of character numbers.
    """
    content = help_texts() if source == "topics" else existing_file(Path(source), "text").read_text(encoding="utf-8")
    content = content[:n_characters]
    numbers = {character: number for number, character in enumerate(sorted(set(content)))}
    codes = th.tensor([numbers[character] for character in content], dtype=th.int64)
    first, second = round(0.8 * len(codes)), round(0.9 * len(codes))
    parts = (Windows(codes[:first], length, length // 2), Windows(codes[first:second], length, length))
    return Data("language", *parts, Windows(codes[second:], length, length), (length,), len(numbers))


def help_texts() -> str:
    """:return: what ``help()`` says on Python's topics."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))
