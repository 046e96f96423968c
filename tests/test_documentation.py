"""What README and docs show runs as it stands there, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page
    for page in ROOT.joinpath("docs").rglob("*.md")
    if not {"_build", "api", "notebooks"} & set(page.parts)
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

RUN = """
import os, sys
os.environ["MPLBACKEND"] = "Agg"
sys.path.insert(0, {tests!r})
namespace = globals()  # (classes of a snippet are those of __main__)
if {readme!r}:
    from readme_files import make_files
    namespace.update(make_files())
blocks = {blocks!r}
for number, (line, block) in enumerate(blocks):
    print(f"--- block {{number + 1}}, line {{line}}", flush=True)
    exec(compile("\\n" * (line - 1) + block, {page!r}, "exec"), namespace)
"""


def blocks(page: Path, *languages: str) -> list[tuple[int, str]]:
    """The blocks of a page in some languages, with the lines at which they begin."""
    text = page.read_text()
    return [
        (text.count("\n", 0, match.start(2)) + 1, match[2])
        for match in FENCE.finditer(text)
        if match[1] in languages
    ]


def environment() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "COLUMNS": "120",
    }


def run_python(page: Path, folder: Path, *, readme: bool = False) -> None:
    shown = blocks(page, "python")
    if not shown:
        pytest.skip(f"{page.name} shows no Python")
    script = RUN.format(
        tests=str(ROOT / "tests"), readme=readme, blocks=shown, page=str(page.relative_to(ROOT))
    )
    # (a file, as users write one: worker processes look for it by its path)
    (folder / "_snippets.py").write_text(script)
    ran = subprocess.run(
        [sys.executable, "_snippets.py"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ran.returncode == 0, f"{page.name}\n{ran.stdout[-1500:]}\n{ran.stderr[-3000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_run(page: Path, tmp_path: Path) -> None:
    pytest.importorskip("mne")
    pytest.importorskip("nibabel")
    run_python(page, tmp_path)


def test_readme_runs(tmp_path: Path) -> None:
    pytest.importorskip("mne")
    pytest.importorskip("nibabel")
    run_python(ROOT / "README.md", tmp_path, readme=True)
    (yaml,) = blocks(ROOT / "README.md", "yaml")
    (tmp_path / "pipeline.yaml").write_text(yaml[1])
    commands = [line for _, block in blocks(ROOT / "README.md", "") for line in _commands(block)]
    commands += [c for _, b in blocks(ROOT / "README.md", "sh") for c in _commands(b)]
    assert len(commands) >= 6, "the commands of README are not found"
    for command in commands:
        ran = subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200
        )
        assert ran.returncode == 0, f"{shlex.join(command)}\n{ran.stdout[-800:]}\n{ran.stderr}"


def _commands(block: str) -> list[list[str]]:
    """The `penstock` commands of a block, without what is optional in them or a comment."""
    joined = block.replace("\\\n", " ")
    lines = [re.sub(r"\[[^\]]*\]", "", line) for line in joined.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines]
    # (the demo is what `make demo` runs)
    return [c for c in commands if c[:1] == ["penstock"] and c[1:2] != ["demo"]]


def test_links_of_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *PAGES]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
