"""Penstock beside its peers, on the same data in the same run.

``python run.py eeg|spectra|strd|regions|load|promise``

Every row is a process of its own, measured from start to end: wall time, CPU time, peak PSS summed
over its process tree, and the error of its output. Peers that pin old libraries run in environments
made here (folder ``benchmarks/work``).
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=["eeg", "spectra", "strd", "regions", "load", "promise"])
    parser.add_argument("--quick", action="store_true", help="little data, one repetition")
    parser.add_argument("--without-peers", action="store_true", help="skip the peers")
    parser.add_argument("--only", help="comma-separated sections of the suite")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    from tables import Table

    suite = importlib.import_module(options.suite)
    wanted = options.only.split(",") if options.only else list(suite.SECTIONS)
    tables: list[Table] = []
    for name in wanted:
        tables += suite.SECTIONS[name](
            options.work, quick=options.quick, peers=not options.without_peers
        )
    head = f"{platform.machine()}, {_cores()} cores, Python {platform.python_version()}"
    print(f"\n{head}\n")
    for table in tables:
        print(table)
    results = options.work / f"{options.suite}.json"
    kept = json.loads(results.read_text()) if results.exists() else {}
    kept.update({table.title: table.rows for table in tables})
    results.write_text(json.dumps(kept, indent=1))
    shutil.rmtree(options.work / "out", ignore_errors=True)


def _cores() -> int:
    from penstock.memory.accounting import cpu_count

    return cpu_count()


if __name__ == "__main__":
    main()
