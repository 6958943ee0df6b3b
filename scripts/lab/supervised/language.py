"""
Next-character models. Embedding, attention and recurrence are left whole, and so is the stream between the blocks, which they
read and write; the hidden units of the MLP blocks, which hold most of the parameters, can be pruned.
"""

from collections.abc import Sequence

import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.errors import PruningError

Shape = tuple[int, ...]


class Attention(nn.Module):
    """
    Causal self-attention.

    Written out: torch's fused kernels have no second derivative, which the criteria on gradient flow need.

    :param width: of the stream.
    :param n_heads: heads.
    """

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        if width % n_heads:
            raise PruningError(f"width={width} must be a multiple of n_heads={n_heads}.")
        self.n_heads = n_heads
        self.inputs, self.outputs = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: th.Tensor) -> th.Tensor:
        queries, keys, values = self.inputs(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
        future = th.ones(scores.shape[-2:], dtype=th.bool, device=x.device).triu(1)
        mixed = scores.masked_fill(future, -th.inf).softmax(-1) @ values
        return self.outputs(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """
    Two linear layers with the units that can be pruned between them.

    :param width: of the stream.
    :param hidden: units.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden, self.outputs = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.outputs(F.gelu(self.hidden(x)))


class Normalised(nn.Module):
    """
    A block that adds to the stream what it makes of its normalised state.

    :param width: of the stream.
    :param block: the block.
    """

    def __init__(self, width: int, block: nn.Module) -> None:
        super().__init__()
        self.norm, self.block = nn.LayerNorm(width), block

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x + self.block(self.norm(x))


class Recurrence(nn.Module):
    """
    A GRU over the characters.

    :param width: of the stream, and of its state.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.gru(x)[0]


class Characters(nn.Module):
    """
    Embeddings of characters and places, blocks, and a layer to the characters.

    :param length: characters at once.
    :param n_characters: the alphabet.
    :param width: of the stream.
    :param blocks: what happens in between.
    """

    def __init__(self, length: int, n_characters: int, width: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(n_characters, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Normalised(width, block) for block in blocks), nn.LayerNorm(width))
        self.head = nn.Linear(width, n_characters)

    def forward(self, codes: th.Tensor) -> th.Tensor:
        """
        :param codes: character numbers, shape (batch, length).
        :return: logits of the next ones, shape (batch, length, characters).
        """
        places = self.places(th.arange(codes.shape[1], device=codes.device))
        return self.head(self.blocks(self.embedding(codes) + places))


def character_transformer(
    input_shape: Shape, n_outputs: int, width: int = 64, n_heads: int = 4, depth: int = 2, hidden: int = 256
) -> nn.Module:
    """
    :param input_shape: (characters at once,).
    :param n_outputs: the alphabet.
    :param width: of the stream.
    :param n_heads: heads of each attention.
    :param depth: pairs of attention and MLP.
    :param hidden: units of each MLP.
    :return: the network.
    """
    blocks = [block for _ in range(depth) for block in (Attention(width, n_heads), MLP(width, hidden))]
    return Characters(input_shape[0], n_outputs, width, blocks)


def character_gru(input_shape: Shape, n_outputs: int, width: int = 64, depth: int = 1, hidden: int = 256) -> nn.Module:
    """
    :param input_shape: (characters at once,).
    :param n_outputs: the alphabet.
    :param width: of the stream, and of each GRU's state.
    :param depth: pairs of GRU and MLP.
    :param hidden: units of each MLP.
    :return: the network.
    """
    blocks = [block for _ in range(depth) for block in (Recurrence(width), MLP(width, hidden))]
    return Characters(input_shape[0], n_outputs, width, blocks)
