"""From bytes to what networks are trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Mean and standard deviation of Fashion-MNIST's official training images, as fractions of full white.
FASHION_MEAN, FASHION_STD = (0.2860,), (0.3530,)


def normalise(
    pixels: npt.NDArray[np.uint8], mean: Sequence[float] = FASHION_MEAN, std: Sequence[float] = FASHION_STD
) -> Tensor:
    """Turn bytes into numbers around zero; by default into what the shipped networks were trained on.

    Args:
        pixels: uint8 [N, H, W], or [N, C, H, W] with C colours.
        mean: one per colour, as a fraction of full white.
        std: one per colour, as a fraction of full white.

    Returns:
        float32 [N, C, H, W] on the CPU: (pixel / 255 - mean) / std. The defaults are Fashion-MNIST's own.

    Raises:
        ValueError: when pixels have another shape, or not as many colours as `mean` and `std`.

    Example:
        >>> import numpy as np
        >>> normalise(np.full((1, 2, 2), 255, dtype=np.uint8)).shape
        torch.Size([1, 1, 2, 2])
    """
    colours = pixels[:, None] if pixels.ndim == 3 else pixels
    if colours.ndim != 4 or not colours.shape[1] == len(mean) == len(std):
        raise ValueError(
            f"normalise: pixels must be [N, H, W] or [N, C, H, W] with C = {len(mean)} means and {len(std)} "
            f"deviations, got {list(pixels.shape)}"
        )
    images = torch.from_numpy(np.ascontiguousarray(colours)).to(torch.float32)
    return images.div_(255.0).sub_(_per_colour(mean)).div_(_per_colour(std))


def _per_colour(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
