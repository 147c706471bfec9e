"""Channel games for ``shapiq``: its approximators, its interaction indices and its plots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..game import ChannelGame
from ..optional import needed

if TYPE_CHECKING:
    import shapiq

__all__ = ["as_shapiq_game"]


def as_shapiq_game(game: ChannelGame) -> shapiq.Game:
    """Present a channel game as one of ``shapiq``.

    Use it for what this package does not compute, above all interactions between channels, and to try other
    approximators. They see payoffs of coalitions that all samples share, so that at equal cost their Shapley values are
    less exact than those of :func:`~shapley_cuda.rank`. Every coalition costs N rows, which the channel game counts.

    Args:
        game: the channel game; it goes on being usable by itself.

    Returns:
        A ``shapiq.Game`` whose players are the channels 0 to C - 1 and whose values are payoffs minus v(none), which is
        its ``normalization_value``.

    Raises:
        ImportError: ``shapiq`` is not installed; it comes with ``pip install '.[ecosystem]'``.

    Example:
        >>> import shapiq
        >>> game = as_shapiq_game(sc.ChannelGame(model, "conv1", (images[:100], labels[:100])))
        >>> shapiq.KernelSHAP(n=game.n_players, random_state=0).approximate(budget=500, game=game)
        >>> shapiq.ExactComputer(game, n_players=game.n_players)("k-SII", order=2)  # for few channels
    """
    base = needed("shapiq", "as_shapiq_game").Game

    class ShapiqGame(base):  # type: ignore[misc, valid-type]  # only now is there a class to inherit from
        def value_function(self, coalitions: Any) -> Any:
            masks = torch.as_tensor(coalitions, dtype=torch.bool)
            return game(masks).cpu().numpy()

    nobody = torch.zeros(1, game.n_players, dtype=torch.bool)
    return ShapiqGame(game.n_players, normalization_value=game(nobody).item())
