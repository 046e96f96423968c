"""The command line called from tests: what it prints, and its exit code."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.commands import main as cli


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What standard error says; exactly one line, for people."""
        assert "Traceback" not in self.err
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("penstock: ")
        assert not re.search(r"Errno|Error\b|<class|object at 0x", lines[0]), lines[0]
        return lines[0].removeprefix("penstock: ")


Penstock = Callable[..., Outcome]


@pytest.fixture
def run_cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Penstock:
    """The command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Outcome:
        given = [str(argument) for argument in arguments]
        if given[:1] == ["run"]:
            given += ["--quiet"]
        monkeypatch.setattr(sys, "argv", ["penstock", *given])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Outcome(code, said.out, said.err)

    return call
