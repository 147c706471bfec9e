"""How the report says numbers and what was asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "SPACE", "Z95", "accuracy", "accuracy_error", "count", "goal", "megabytes", "milliseconds", "percent", "ranges",
    "span", "unit",
]  # fmt: skip

SPACE = "\u00a0"  # one that does not break
Z95 = 1.959964
"""Half the width of a 95 % interval, in standard errors."""

# What a player is worth, by the metric of the payoff.
_UNITS = {
    "cross_entropy": "loss that the channel saves, in nats",
    "accuracy": "accuracy that the channel adds, as a share of 1",
    "squared_error": "squared error that the channel saves",
    "kl": "divergence from the whole network that the channel saves, in nats",
    "cosine": "cosine similarity to the whole network that the channel adds",
}
_SCORES = {
    "l1": "L1 norm of the channel's weights",
    "magnitude": "L1 norm of the channel's weights",
    "l2": "L2 norm of the channel's weights",
    "bn_scale": "size of the channel's BatchNorm scale",
    "taylor": "weights times gradients",
    "apoz": "how often the channel is not zero",
    "random": "a random number",
    "oracle": "share of the best sets that hold the channel",
}
_GOALS = {
    "keep": "keep {} of the channels",
    "macs": "leave at most {} of the multiply-accumulates",
    "parameters": "leave at most {} of the parameters",
    "latency": "leave at most {} of the time that a batch takes",
}


def percent(share: float) -> str:
    """A share of 1: two digits below ten percent, three close to all, else whole."""
    value = 100 * share
    digits = 1 if value < 9.95 or 99 < value < 100 else 0
    return f"{value:.{digits}f}{SPACE}%" if value else f"0{SPACE}%"


def accuracy(share: float) -> str:
    """An accuracy to a tenth of a percent."""
    return f"{100 * share:.1f}{SPACE}%"


def accuracy_error(share: float, n: int) -> float:
    """Half the width of the 95 % interval of an accuracy on n samples (Wilson's, which has some at 0 and 1, too)."""
    return Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))


def count(number: int) -> str:
    """A number of things, in millions or thousands of millions where there are so many."""
    for size, name in ((1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:,.2f}{SPACE}{name}"
    return f"{number:,}"


def megabytes(n_bytes: int) -> str:
    """A size on disk."""
    return f"{n_bytes / 1e6:,.2f}{SPACE}MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:,.1f}{SPACE}kB"


def milliseconds(time_ms: float) -> str:
    """A time to three digits."""
    return f"{time_ms:.3g}{SPACE}ms" if time_ms < 1000 else f"{time_ms:,.0f}{SPACE}ms"


def span(seconds: float) -> str:
    """A time that somebody waited."""
    if seconds < 60:
        return f"{seconds:.2f}{SPACE}s" if seconds < 10 else f"{seconds:.0f}{SPACE}s"
    minutes = round(seconds / 60)
    return f"{minutes}{SPACE}min" if minutes < 120 else f"{minutes // 60}{SPACE}h {minutes % 60}{SPACE}min"


def ranges(numbers: Sequence[int]) -> str:
    """Ascending whole numbers, runs of them by their ends."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a}\u2013{b}" for a, b in runs)


def unit(method: str, metric: object) -> str:
    """What a value says of a channel."""
    return _SCORES.get(method) or _UNITS.get(str(metric or "cross_entropy"), "payoff that the channel adds")


def goal(options: Mapping[str, Any]) -> str:
    """What a plan was to reach, from its options; empty where they do not tell."""
    said = []
    for name, sentence in _GOALS.items():
        wanted = options.get(name)
        if isinstance(wanted, float):
            said.append(sentence.format(percent(wanted)))
        elif isinstance(wanted, dict):
            said.append("keep the number of channels that was named for each layer")
    if not said:
        return ""
    if options.get("across") == "global":
        said.append("let the channels of all layers compete, by value over what they cost")
    elif not isinstance(options.get("keep"), dict):
        said.append("take the same share of every layer")
    if options.get("normalise") == "mean":
        said.append("compare values as multiples of their layer's mean")
    if isinstance(options.get("multiple_of"), int) and options["multiple_of"] > 1:
        said.append(f"round up to multiples of {options['multiple_of']}")
    least = options.get("keep_at_least")
    if isinstance(least, float):
        said.append(f"keep at least {percent(least)} of every layer")
    elif isinstance(least, dict):
        said.append("keep at least what was named for some layers")
    if isinstance(options.get("rounds"), int):
        said.append(f"get there in {options['rounds']} rounds")
    return _joined(said)


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
