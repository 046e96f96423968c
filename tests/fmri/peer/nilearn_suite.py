"""Run nilearn's own tests of maskers and of signal cleaning with Penstock's classes in place.

    python tests/fmri/peer/nilearn_suite.py [--quick] [pytest options]

Tests in which Penstock takes no part (surfaces, nilearn's helpers) do not count. Ends with 1 if a
test fails that `differences` does not list. ``--quick`` leaves out the pictures of reports, which
take most of the time and look at nilearn's own pages.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

from differences import reason_for

VERSIONS = ("0.14",)
"""Versions of nilearn whose tests the differences are about."""
NEEDED = ("nilearn", "polars", "numpydoc")
PICTURES = ("maskers/tests/test_html_report.py", "maskers/tests/test_baseline_comparisons.py")
MODULES = (
    "maskers/tests/test_base_masker.py",
    "maskers/tests/test_masker_validation.py",
    "maskers/tests/test_mixin.py",
    "maskers/tests/test_multi_nifti_labels_masker.py",
    "maskers/tests/test_multi_nifti_maps_masker.py",
    "maskers/tests/test_multi_nifti_masker.py",
    "maskers/tests/test_nifti_labels_masker.py",
    "maskers/tests/test_nifti_maps_masker.py",
    "maskers/tests/test_nifti_masker.py",
    "maskers/tests/test_nifti_spheres_masker.py",
    "tests/test_signal.py",
)


@dataclass
class Outcome:
    """What the tests in which Penstock takes part came to."""

    counts: Counter[str] = field(default_factory=Counter)
    differences: Counter[str] = field(default_factory=Counter)
    unexpected: dict[str, str] = field(default_factory=dict)
    """Failed tests that are no difference, with their messages."""

    def report(self) -> str:
        lines = [f"{n:5}  {what}" for what, n in sorted(self.counts.items())]
        lines += ["documented differences:"]
        lines += [f"{n:5}  {reason}" for reason, n in self.differences.most_common()]
        lines += [f"UNEXPECTED {test}: {text}" for test, text in self.unexpected.items()]
        return "\n".join(lines)


def missing() -> str | None:
    """Why the tests cannot be run here; None if they can."""
    for module in NEEDED:
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    version = importlib.metadata.version("nilearn")
    if not version.startswith(VERSIONS):
        return f"the list of differences is about nilearn {VERSIONS[-1]}, not {version}"
    return None


def run(modules: tuple[str, ...], *options: str) -> Outcome:
    """Run test modules of the nilearn that is installed, in a process of their own."""
    spec = importlib.util.find_spec("nilearn")
    assert spec is not None
    assert spec.origin is not None
    home = Path(spec.origin).parent
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.jsonl"
        here = Path(__file__).parent
        paths = [str(here), str(here.parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PENSTOCK_NILEARN_RESULTS": str(results),
            "MPLBACKEND": "agg",
        }
        command = [sys.executable, "-m", "pytest", "-p", "penstock_in_nilearn", "-c", os.devnull]
        command += ["--rootdir", str(home), "-p", "no:cacheprovider", "-q", "--no-header"]
        command += ["--tb=line", "-k", "not Surface and not butterworth_multiple", *options]
        done = subprocess.run(
            [*command, *(str(home / module) for module in modules)],
            cwd=folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode not in (0, 1) or not results.exists():
            raise RuntimeError(f"nilearn's tests could not be run: {done.stdout}{done.stderr}")
        return _summed(results)


def _summed(results: Path) -> Outcome:
    outcome = Outcome()
    with open(results, encoding="utf-8") as file:
        for record in map(json.loads, file):
            if not record["ours"]:
                continue
            kind, reason = record["outcome"], reason_for(record["test"])
            if kind == "passed" and record["relaxed"]:
                kind = f"passed but for the {', '.join(record['relaxed'])}"
            if kind == "failed" and reason is not None:
                kind = "differences"
                outcome.differences[reason] += 1
            elif kind == "failed":
                text = " ".join(record["text"].split())[:300]
                outcome.unexpected[record["test"]] = text
            outcome.counts[kind] += 1
    return outcome


def main(arguments: list[str]) -> int:
    why = missing()
    if why is not None:
        print(why)
        return 2
    quick = "--quick" in arguments
    options = [one for one in arguments if one != "--quick"]
    outcome = run(MODULES if quick else MODULES + PICTURES, *options)
    print(outcome.report())
    return bool(outcome.unexpected)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
