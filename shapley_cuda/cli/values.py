"""A folder of values: a file for each group, and an index that tells what they are of and which are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

from ..estimate import Estimate
from ..files import read_file, read_record, write_whole
from .run_folder import values_file

__all__ = ["ValuesIndex"]

_FORMAT = "shapley_cuda.values/2"
_FILE = "index.json"
_WHEN_TO_STOP = ("tolerance", "settle", "confidence", "budget", "max_seconds")


@dataclass
class ValuesIndex:
    """What the values in a folder are of. It is written anew with every group, so that it is always true.

    Attributes:
        named: the network and the data, as they were named, see :class:`~shapley_cuda.cli.subject.Named`.
        weights: fingerprint of the network's weights.
        method: the ranker.
        options: its options.
        groups: names of the groups to rank.
        files: file of each group that has been ranked.
        left_out: groups that turned out not to be prunable, and why.
        command: the words of the command that began the ranking, as they were typed.
    """

    named: dict[str, Any]
    weights: str
    method: str
    options: dict[str, Any]
    groups: list[str]
    files: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        """Groups that are still to be ranked."""
        return [name for name in self.groups if name not in self.files and name not in self.left_out]

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether a folder has an index."""
        return (folder / _FILE).is_file()

    @classmethod
    def read(cls, folder: Path) -> ValuesIndex:
        """Read a folder's index.

        Raises:
            FileNotFoundError: the folder has none.
            ValueError: it is damaged.
        """
        if not cls.is_in(folder):
            raise FileNotFoundError(f"{folder} must be a folder that rank wrote, got none with an {_FILE}")
        return read_file(folder / _FILE, lambda text: cls.from_json(text, _FILE))

    @classmethod
    def from_json(cls, text: str, what: str) -> ValuesIndex:
        """Read what :meth:`to_json` wrote; errors call it ``what``."""
        return cls(**read_record(text, what, _FORMAT, get_type_hints(cls)))

    def to_json(self) -> str:
        """Write all fields as JSON."""
        return json.dumps({"format": _FORMAT} | asdict(self), indent=1)

    def write(self, folder: Path) -> None:
        """Write the index, whole or not at all."""
        write_whole(folder / _FILE, self.to_json().encode())

    def add(self, estimate: Estimate, folder: Path | None) -> None:
        """Take in a group's values; written to a folder if there is one."""
        file = values_file(estimate.group)
        if folder is not None:
            estimate.save(folder / file)
        self.files[estimate.group] = file

    def write_copy(self, estimates: Mapping[str, Estimate], folder: Path) -> None:
        """Write some of the values and what they are of into another folder."""
        copy = replace(self, groups=list(estimates), files={})
        for estimate in estimates.values():
            copy.add(estimate, folder)
        copy.write(folder)

    def extended(self, other: ValuesIndex) -> ValuesIndex:
        """This ranking with another's groups, and its rules for when to stop. If those differ, all is to be done again.

        Raises:
            ValueError: they differ in more.
        """
        mine, others = self._settings(), other._settings()
        differing = [name for name in mine | others if mine.get(name) != others.get(name)]
        if differing:
            differences = ", ".join(f"{n} was {mine.get(n)}, is {others.get(n)}" for n in differing)
            raise ValueError(f"the ranking that it holds is another: {differences}")
        groups = list(dict.fromkeys([*self.groups, *other.groups]))
        if _plain(self.options) != _plain(other.options):
            return replace(other, groups=groups, left_out=self.left_out)
        return replace(self, groups=groups)

    def of_network(self, weights: str, folder: Path) -> ValuesIndex:
        """Make sure that the values are those of a network.

        Raises:
            ValueError: its weights are others.
        """
        if self.weights != weights:
            checkpoint = self.named.get("checkpoint")
            raise ValueError(
                f"values in {folder} are those of other weights: model {self.named.get('model')}"
                + (f", checkpoint {checkpoint}" if checkpoint else "")
            )
        return self

    def load(self, folder: Path) -> dict[str, Estimate]:
        """Read all values.

        Raises:
            ValueError: some are missing or damaged.
        """
        if self.missing:
            missing = ", ".join(self.missing)
            raise ValueError(f"ranking in {folder} is not finished, {missing} to do: go on with rank --resume")
        return {group: self.load_group(group, folder) for group in self.groups if group in self.files}

    def load_group(self, group: str, folder: Path) -> Estimate:
        """Read the values of one group.

        Raises:
            ValueError: they are missing or damaged.
        """
        if group not in self.files:
            raise ValueError(f"{folder} must hold values of {group}, got {', '.join(self.files) or 'none yet'}")
        path = folder / Path(self.files[group]).name
        try:
            return Estimate.from_json(path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error

    def _settings(self) -> dict[str, Any]:
        """What makes it this ranking; not the groups, nor when to stop."""
        how = {name: value for name, value in self.options.items() if name not in _WHEN_TO_STOP}
        return _plain({**self.named, **how, "method": self.method, "weights": self.weights})


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they are read back."""
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain
