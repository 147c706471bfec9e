"""A small vision transformer: patches of an image as tokens, pre-norm blocks, the mean of the tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .arguments import check_counts, is_count


class Attention(nn.Module):
    """Let every token look at all others.

    The size of a head is fixed and their number follows from the layers' widths, so that whole heads can be cut.
    """

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        width = num_heads * head_dim
        self.q, self.k, self.v = nn.Linear(dim, width), nn.Linear(dim, width), nn.Linear(dim, width)
        self.project = nn.Linear(width, dim)

    @property
    def num_heads(self) -> int:
        """How many heads there are."""
        return self.q.out_features // self.head_dim

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [N, T, dim] to tokens [N, T, dim]."""
        q, k, v = (layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Treat every token by itself, with one hidden layer of GELU neurons."""

    def __init__(self, dim: int, neurons: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, neurons), nn.Linear(neurons, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [N, T, dim] to tokens [N, T, dim]."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Add attention, then an MLP, to the residual stream, each behind a LayerNorm of its own."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, neurons: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, num_heads, head_dim)
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, neurons)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [N, T, dim] to tokens [N, T, dim]."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Vit(nn.Module):
    """Compute class logits with a vision transformer; build it with `vit`."""

    def __init__(
        self,
        heads: Sequence[int],
        neurons: Sequence[int],
        num_classes: int,
        dim: int,
        head_dim: int,
        patch_size: int,
        in_channels: int,
        image_size: int,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.position = nn.Parameter(0.02 * torch.randn(1, (image_size // patch_size) ** 2, dim))
        self.blocks = nn.Sequential(
            *(Block(dim, num_heads, head_dim, width) for num_heads, width in zip(heads, neurons, strict=True))
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to logits [N, num_classes]."""
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return logits


def vit(
    heads: Sequence[int] = (4, 4, 4, 4),
    neurons: Sequence[int] = (128, 128, 128, 128),
    num_classes: int = 10,
    *,
    dim: int = 64,
    head_dim: int = 16,
    patch_size: int = 7,
    in_channels: int = 1,
    image_size: int = 28,
) -> Vit:
    """Build a small vision transformer: 138,890 parameters and 16 tokens for 28 x 28 images.

    A convolution makes a token of every patch, a learned position is added, and pre-norm blocks of attention and an MLP
    follow; the mean over the tokens, behind a last LayerNorm, is classified. There is no class token. The players are
    the heads of each block, named ``blocks.0.attention.q``, and the neurons of its MLP, ``blocks.0.mlp.fc1``. What the
    blocks add up is normalised by LayerNorms, so that channels of the tokens themselves cannot be pruned exactly.

    Args:
        heads: attention heads of each block, at least 1. Smaller numbers give the pruned shape.
        neurons: hidden neurons of each block's MLP, at least 1, as many entries as in `heads`.
        num_classes: outputs.
        dim: channels of a token.
        head_dim: channels of a head, whatever their number.
        patch_size: height and width of a patch in pixels; it divides `image_size`.
        in_channels: channels of the images.
        image_size: height and width of the images in pixels.

    Returns:
        The network with random weights (torch's default initialisation, from the global generator; positions are normal
        with a standard deviation of 0.02), in training mode.

    Raises:
        ValueError: when a number is out of range.

    Source:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929, with the mean of the tokens in place of a
        class token.

    Example:
        >>> sum(p.numel() for p in vit().parameters())
        138890
    """
    if not heads or len(heads) != len(neurons) or not all(is_count(n) for n in (*heads, *neurons)):
        raise ValueError(
            "vit: heads and neurons must be positive integers, one of each for every block, "
            f"got {heads!r} and {neurons!r}"
        )
    check_counts("vit", num_classes=num_classes, dim=dim, head_dim=head_dim)
    check_counts("vit", patch_size=patch_size, in_channels=in_channels, image_size=image_size)
    if image_size % patch_size:
        raise ValueError(f"vit: image_size must be a multiple of patch_size {patch_size}, got {image_size}")
    return Vit(heads, neurons, num_classes, dim, head_dim, patch_size, in_channels, image_size)
