"""The README's code runs, its commands exist, and its table of ops is whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import shapley_cuda as sc

ROOT = Path(__file__).parent.parent


def blocks(*languages: str) -> list[str]:
    """Contents of the fenced blocks in these languages, in order."""
    text = (ROOT / "README.md").read_text()
    fences = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [body for language, body in fences if language in languages]


def test_readme_python_blocks_run_in_order(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # they write into runs/
    sources = blocks("python", "py")
    assert sources
    namespace: dict[str, object] = {}
    for number, source in enumerate(sources, start=1):
        exec(compile(source, f"README.md, python block {number}", "exec"), namespace)
    assert capsys.readouterr().out.strip()


def test_readme_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    commands = "\n".join(blocks("sh", "bash", "console", "shell"))
    named = re.findall(r"^\s*(?:\$ )?(?:\w+=\S+ )*make ((?:[\w-]+ ?)+)", commands, flags=re.MULTILINE)
    wanted = {target for line in named for target in line.split()}
    assert {"demo", "test"} <= wanted
    assert wanted <= targets


def test_readme_commands_of_the_package_exist() -> None:
    from shapley_cuda.cli import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    named = set(re.findall(r"shapley-cuda ([a-z]+)", (ROOT / "README.md").read_text()))
    assert named
    assert named <= known


def test_readme_table_of_ops_names_each_op() -> None:
    rows = re.findall(r"^\| `(\w+)\(", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(sc.ops.__all__)
