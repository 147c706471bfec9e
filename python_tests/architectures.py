"""Small networks of the families that people prune, and some that cannot be pruned exactly.

`FAMILIES` are prunable: every group that `find_groups` calls prunable must compute, masked, what it computes cut. All
are randomised by `build`, BatchNorm statistics and affine parameters included: with fresh ones (mean 0, shift 0) a
channel masked in the wrong place would go unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from attention_families import ChunkedAttention, FusedAttention, Transformer
from torch import Tensor, nn
from torch.nn import functional as F

from shapley_cuda.networks import vit

N_SAMPLES = 6
N_CLASSES = 5


class Chain(nn.Module):
    """LeNet's shape: convolutions with pools, a flatten, linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3)
        self.conv2 = nn.Conv2d(6, 7, 3, padding=1)
        self.fc1 = nn.Linear(7 * 4, 9)
        self.fc2 = nn.Linear(9, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))


def vgg() -> nn.Module:
    """A VGG with BatchNorm, dropout and a linear head on pooled features."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.Conv2d(8, 7, 3, padding=1), nn.BatchNorm2d(7), nn.SiLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(28, 8), nn.ReLU(), nn.Linear(8, N_CLASSES),
    )  # fmt: skip


def conv_bn(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_bn(inputs, outputs, 3, stride), conv_bn(outputs, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (
            conv_bn(inputs, inner, 1),
            conv_bn(inner, inner),
            conv_bn(inner, outputs, 1),
        )
        self.shortcut = nn.Identity() if inputs == outputs else conv_bn(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv2(F.relu(self.conv1(x))))
        y = self.conv3(y)
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


class PreActivationBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        skip = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(y)
        return self.conv2(F.relu(self.bn2(self.conv1(y)))) + skip


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.expand, self.depthwise = conv_bn(inputs, inner, 1), conv_bn(inner, inner, 3, groups=inner)
        self.project = conv_bn(inner, outputs, 1)
        self.residual = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(F.relu6(self.depthwise(F.relu6(self.expand(x)))))
        return x + y if self.residual else y


class DenseBlock(nn.Module):
    def __init__(self, inputs: int, growth: int, n_layers: int) -> None:
        super().__init__()
        widths = [inputs + i * growth for i in range(n_layers)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.convs = nn.ModuleList(nn.Conv2d(width, growth, 3, padding=1, bias=False) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], dim=1)
        return x


class SqueezeExcite(nn.Module):
    """Channel gates from pooled channels, by 1 x 1 convolutions or by linear layers."""

    def __init__(self, channels: int, squeezed: int, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Linear(channels, squeezed) if linear else nn.Conv2d(channels, squeezed, 1)
        self.up = nn.Linear(squeezed, channels) if linear else nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.linear:
            pooled = x.mean((2, 3))
            return x * torch.sigmoid(self.up(F.relu(self.down(pooled))))[:, :, None, None]
        pooled = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.up(F.relu(self.down(pooled))))


class Inception(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch1 = conv_bn(inputs, 3, 1)
        self.branch3 = nn.Sequential(conv_bn(inputs, 4, 1), nn.ReLU(), conv_bn(4, 5))
        self.branch5 = nn.Sequential(conv_bn(inputs, 2, 1), nn.ReLU(), conv_bn(2, 3, 5))
        self.branch_pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(inputs, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.branch1(x), self.branch3(x), self.branch5(x), self.branch_pool(x)]
        return F.relu(torch.cat(branches, 1))


def classifier(*features: nn.Module, channels: int) -> nn.Module:
    """A stem of 6 channels, the features, global pooling and a linear head."""
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, N_CLASSES))
    return nn.Sequential(conv_bn(3, 6), nn.ReLU(), *features, *head)


class Decoder(nn.Module):
    """A linear layer, a view, and transposed convolutions up to an image: an output of four dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(10, 6 * 4)
        self.up1 = nn.ConvTranspose2d(6, 7, 4, 2, 1)
        self.bn = nn.BatchNorm2d(7)
        self.up2 = nn.ConvTranspose2d(7, 5, 3, 2)
        self.out = nn.Conv2d(5, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc(x)).view(x.size(0), -1, 2, 2)
        return torch.tanh(self.out(F.leaky_relu(self.up2(F.relu(self.bn(self.up1(x)))), 0.1)))


class Waves(nn.Module):
    """1-D convolutions, PReLU per channel and a mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv1d(2, 6, 5, padding=2), nn.BatchNorm1d(6), nn.PReLU(6)
        self.conv2, self.act2 = nn.Conv1d(6, 7, 3, stride=2), nn.PReLU()
        self.fc = nn.Linear(7, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        return self.fc(self.act2(self.conv2(x)).mean(-1))


def mlp() -> nn.Module:
    """Linear layers with BatchNorm and several activations."""
    return nn.Sequential(
        nn.Linear(10, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 7), nn.GELU(),
        nn.Linear(7, N_CLASSES),
    )  # fmt: skip


@dataclass(frozen=True)
class Family:
    """How to build one network, and the shape of one of its samples."""

    make: Callable[[], nn.Module]
    sample_shape: tuple[int, ...] = (3, 12, 12)


FAMILIES: dict[str, Family] = {
    "chain": Family(Chain),
    "vgg": Family(vgg),
    "resnet_basic": Family(
        lambda: classifier(BasicBlock(6, 6, 1), BasicBlock(6, 8, 2), BasicBlock(8, 8, 1), channels=8)
    ),
    "resnet_bottleneck": Family(lambda: classifier(Bottleneck(6, 4, 9), Bottleneck(9, 5, 9), channels=9)),
    "resnet_preactivation": Family(
        lambda: classifier(PreActivationBlock(6, 6), PreActivationBlock(6, 8), nn.BatchNorm2d(8), nn.ReLU(), channels=8)
    ),
    "mobilenet": Family(lambda: classifier(InvertedResidual(6, 12, 6), InvertedResidual(6, 9, 8), channels=8)),
    "densenet": Family(lambda: classifier(DenseBlock(6, 3, 3), nn.BatchNorm2d(15), nn.ReLU(), channels=15)),
    "squeeze_excite_conv": Family(
        lambda: classifier(conv_bn(6, 8), SqueezeExcite(8, 3, linear=False), nn.Conv2d(8, 7, 3), channels=7)
    ),
    "squeeze_excite_linear": Family(
        lambda: classifier(conv_bn(6, 8), SqueezeExcite(8, 3, linear=True), nn.Conv2d(8, 7, 3), channels=7)
    ),
    "inception": Family(lambda: classifier(Inception(6), nn.Conv2d(13, 6, 3), nn.ReLU(), channels=6)),
    "mlp": Family(mlp, (10,)),
    "decoder": Family(Decoder, (10,)),
    "waves": Family(Waves, (2, 20)),
    "vit": Family(
        lambda: vit((4, 3), (7, 6), N_CLASSES, dim=8, head_dim=2, patch_size=4, in_channels=3, image_size=12)
    ),
    "fused_attention": Family(lambda: Transformer(FusedAttention, N_CLASSES), (5, 4)),
    "chunked_attention": Family(lambda: Transformer(ChunkedAttention, N_CLASSES), (5, 4)),
}

WITH_HEADS = ("vit", "fused_attention", "chunked_attention")
"""Families whose attention heads are players."""


class Branching(nn.Module):
    """Takes a branch that depends on the data, which torch.fx cannot follow. Both branches read the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 7, 3), nn.Linear(7, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        if not bool(torch.isfinite(x).any()):
            raise ValueError("nothing to see")
        return self.fc(F.relu(self.conv2(x)).mean((2, 3)))


class SharedConsumer(nn.Module):
    """One convolution and one linear layer are called twice each in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv2(x))
        fine, coarse = x.mean((2, 3)), x.amax((2, 3))
        return self.fc2(torch.tanh(self.fc1(fine)) + torch.tanh(self.fc1(coarse)))


class KeywordCall(nn.Module):
    """Calls its layers with keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 7, 3), nn.Linear(7, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(input=F.relu(self.conv1(input=x)))
        return self.fc(input=F.relu(x).mean((2, 3)))


class RepeatedChannels(nn.Module):
    """A layer that reads the same channels twice, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(12, 7, 3), nn.Linear(7, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.fc(F.relu(self.conv2(torch.cat([F.relu(x), torch.sigmoid(x)], 1))).mean((2, 3)))


class SizesInside(nn.Module):
    """Uses the batch's own sizes in views and in arithmetic, a parameter of its own, and functional dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 7, 3), nn.Linear(7 * 4, N_CLASSES)
        self.scale = nn.Parameter(torch.ones(1, 7, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.relu(self.conv1(x)), 2)
        x = F.adaptive_max_pool2d(self.conv2(x) * self.scale, 2)
        x = F.dropout(x, 0.5, training=self.training) / x.shape[3]
        return self.fc(x.view(x.size(0), -1))


UNUSUAL: dict[str, Family] = {
    "branching": Family(Branching),
    "shared_consumer": Family(SharedConsumer),
    "keyword_call": Family(KeywordCall),
    "repeated_channels": Family(RepeatedChannels),
    "sizes_inside": Family(SizesInside),
}
"""Prunable networks whose code is what makes a path stumble."""


class Normalised(nn.Module):
    """A normalisation of the caller's choice behind the first convolution."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2, self.fc = nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 7, 3), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv2(F.relu(self.norm(self.conv1(x))))).mean((2, 3)))


class Functional(nn.Module):
    """Any function between one convolution and the next."""

    def __init__(self, between: Callable[[Tensor], Tensor], outputs: int = 8, inputs: int = 8) -> None:
        super().__init__()
        self.between = between
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, outputs, 3), nn.Conv2d(inputs, 7, 3), nn.Linear(7, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv2(self.between(self.conv1(x)))).mean((2, 3)))


class LayerNormMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(10, 8), nn.LayerNorm(8), nn.Linear(8, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.norm(self.fc1(x))))


class GroupedReader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Linear(8, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(4, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.fc(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.fc = nn.Linear(4, 8), nn.LSTM(8, 6, batch_first=True), nn.Linear(6, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(F.relu(self.embed(x)))[0].mean(1))


def randomise(model: nn.Module, seed: int) -> None:
    """Draw all BatchNorm statistics and affine parameters anew; the global random state is not used."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
            bound = (6 / fan_in) ** 0.5 if parameter.dim() > 1 else 0.5
            parameter.copy_(uniform(parameter, -bound, bound))
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.copy_(uniform(module.running_mean, -0.5, 0.5))
                module.running_var.copy_(uniform(module.running_var, 0.5, 2.0))
                module.weight.copy_(uniform(module.weight, 0.5, 1.5))


def prepared(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with random parameters and statistics, in evaluation mode."""
    randomise(model, seed)
    return model.eval()


def build(name: str, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of a family with its data: model in evaluation mode, inputs ``[N, ...]``, class indices ``[N]``."""
    family = (FAMILIES | UNUSUAL)[name]
    generator = torch.Generator().manual_seed(seed + 1)
    inputs = torch.randn(N_SAMPLES, *family.sample_shape, generator=generator)
    targets = torch.randint(0, N_CLASSES, (N_SAMPLES,), generator=generator)
    return prepared(family.make(), seed), inputs, targets
