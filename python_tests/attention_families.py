"""Transformers as people write them: queries, keys and values from one layer, a class token that the head reads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FusedAttention(nn.Module):
    """As timm writes it: one layer for queries, keys and values, and sizes kept as attributes."""

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = num_heads, head_dim, num_heads * head_dim
        self.qkv, self.proj = nn.Linear(dim, 3 * self.attn_dim), nn.Linear(self.attn_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(n, t, self.attn_dim))


class ChunkedAttention(nn.Module):
    """As it is written by hand: three parts of one layer, matrix products and a softmax."""

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * num_heads * head_dim), nn.Linear(num_heads * head_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """A class token, two pre-norm blocks with an attention of the caller's choice, and a head that reads that token."""

    def __init__(self, attention: Callable[[int, int, int], nn.Module], n_classes: int) -> None:
        super().__init__()
        dim, head_dim = 8, 2
        self.embed, self.token = nn.Linear(4, dim), nn.Parameter(torch.zeros(1, 1, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(5))
        self.attentions = nn.ModuleList(attention(dim, n_heads, head_dim) for n_heads in (4, 3))
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(dim, n), nn.GELU(), nn.Linear(n, dim)) for n in (7, 6))
        self.head = nn.Linear(dim, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], 1)
        for i in range(2):
            x = x + self.attentions[i](self.norms[2 * i](x))
            x = x + self.mlps[i](self.norms[2 * i + 1](x))
        return self.head(self.norms[4](x)[:, 0])
