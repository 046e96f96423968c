"""Fuzz of the promise: measured <= predicted <= budget, whatever data, pipeline, format and place.

``python benchmarks/run.py promise`` for the tables, or, with a seed and a number of cases of your
own, ``python benchmarks/promise.py --seed 1 --cases 300``. Every case runs with two settings, each
in a process of its own whose whole tree is watched, and the two results are compared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from measure import Measured, measure  # noqa: E402
from promise_draw import draw  # noqa: E402
from tables import Table  # noqa: E402

from penstock.memory.accounting import MIB  # noqa: E402

LARGE_BLOCKS = 100 * MIB
"""Above this much for blocks, a prediction must be worth something: at most `WORTH` x measured."""
WORTH = 1.5
LOSSY = ("edf", "csv", "nifti")
"""Formats that keep fewer digits than were computed."""


def run_case(case: dict[str, Any], work: Path) -> list[dict[str, Any]]:
    """Both settings of a case: what was measured, predicted, allowed; the second is compared."""
    data = work / "data"
    data.mkdir(parents=True, exist_ok=True)
    kind = case["data"]["kind"]
    suffix = ".npy" if kind in ("memory", "dask", "scanner") else f".{kind}"
    path = data / f"{case['seed']}-{case['number']}{suffix}"
    case = {**case, "path": str(path)}
    if kind != "scanner" and not path.exists():
        made = _role("make", case, work)
        if made.failed:
            raise RuntimeError(f"the data of {case} cannot be made: {made.log}")
    rows, outs = [], []
    for number, setting in enumerate(case["settings"]):
        out = work / f"out-{case['number']}-{number}"
        shutil.rmtree(out, ignore_errors=True)
        part = {**case, **setting, "out": str(out)}
        row = {key: part[key] for key in ("seed", "number", "domain", "format", "place")}
        row |= {"data": kind, "workers": setting["workers"], "pipeline": case["pipeline"]}
        row["tight"] = setting["memory"] == "tight"
        if setting["memory"] != "tight":
            part["memory"] = setting["memory"] * MIB
        got = _role("run", part, work)
        rows.append(row | {"measured": got.peak, "seconds": round(got.wall, 1), **got.said})
        if not got.said:
            refused = (got.log.strip().splitlines() or ["nothing said"])[-1]
            rows[-1] |= {"refused": refused, "measured": None}
        elif not got.said["failed"]:
            outs.append(str(out))
    if len(outs) == 2 and case["format"] != "fif":
        rows[-1] |= _role("compare", {**case, "outs": outs}, work).said
    for number in range(2):
        shutil.rmtree(work / f"out-{case['number']}-{number}", ignore_errors=True)
    if kind != "scanner":
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return rows


def _role(role: str, case: dict[str, Any], work: Path) -> Measured:
    described = work / f"case-{case['number']}.json"
    described.write_text(json.dumps(case))
    command = [sys.executable, str(HERE / "promise_case.py"), role, str(described)]
    try:
        return measure(command, interval=0.01, timeout=300)
    finally:
        described.unlink()


def faults(row: dict[str, Any]) -> list[str]:
    """What is wrong with a run, in words; empty where the promise was kept."""
    found = []
    if row.get("measured") and row.get("predicted"):
        if row["measured"] > row["predicted"]:
            found.append("measured more than predicted")
        if row["predicted"] > row["budget"]:
            found.append("predicted more than the budget")
    if row.get("failed"):
        found.append(f"failed: {row['failed']}")
    refused = row.get("refused")
    if refused and (row["tight"] or "BudgetError" not in refused):
        found.append(f"refused: {refused}")
    if "difference" in row and row["format"] not in LOSSY:
        limit = 1e-12 if row["float64"] else 1e-6
        if row["difference"] is None or row["difference"] > limit:
            found.append(f"results differ by {row['difference']} of the largest value")
    return found


def worth_little(row: dict[str, Any]) -> bool:
    """Whether blocks were large and the prediction far above the truth."""
    if not row.get("measured") or not row.get("predicted"):
        return False
    large = row["predicted"] - row["base"] > LARGE_BLOCKS
    return bool(large and row["predicted"] > WORTH * row["measured"])


def tables(rows: list[dict[str, Any]]) -> list[Table]:
    """Counts, and predicted / measured by domain and place."""
    columns = ["runs", "number", "above the prediction", "above the budget", "failed",
               "predicted / measured: 5 %", "median", "95 %", "large blocks", "of these above 1.5",
               "reported / measured: least", "median "]  # fmt: skip
    table = Table("The promise", columns)
    groups: dict[str, Any] = {"all": lambda row: True}
    for key in ("domain", "place"):
        for value in dict.fromkeys(row[key] for row in rows):
            groups[value] = lambda row, key=key, value=value: row[key] == value
    for name, belongs in groups.items():
        runs = [row for row in rows if row.get("predicted") and row["measured"] and belongs(row)]
        if not runs:
            continue
        ratios = sorted(row["predicted"] / row["measured"] for row in runs)
        reported = sorted(row["reported"] / row["measured"] for row in runs)
        large = [row for row in runs if row["predicted"] - row["base"] > LARGE_BLOCKS]
        table.add(
            **{
                "runs": name,
                "number": len(runs),
                "above the prediction": sum(r["measured"] > r["predicted"] for r in runs),
                "above the budget": sum(r["measured"] > r["budget"] for r in runs),
                "failed": sum(bool(r["failed"]) for r in runs),
                "predicted / measured: 5 %": f"{_quantile(ratios, 0.05):.2f}",
                "median": f"{statistics.median(ratios):.2f}",
                "95 %": f"{_quantile(ratios, 0.95):.2f}",
                "large blocks": len(large),
                "of these above 1.5": sum(map(worth_little, large)),
                "reported / measured: least": f"{reported[0]:.2f}",
                "median ": f"{statistics.median(reported):.2f}",
            }
        )
    compared = [row for row in rows if "difference" in row]
    exact = sum(bool(row.get("exact")) for row in compared)
    apart = max(
        (row["difference"] or 0 for row in compared if row["format"] not in LOSSY), default=0
    )
    results = Table("Results of two settings", ["compared", "bit for bit", "largest difference"])
    results.add(
        **{"compared": len(compared), "bit for bit": exact, "largest difference": f"{apart:.1e}"}
    )
    return [table, results]


def _quantile(values: list[float], q: float) -> float:
    return values[round(q * (len(values) - 1))]


def run_all(work: Path, cases: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run cases one after the other, saying of each how it went."""
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    with open(work / f"promise-{time.strftime('%Y%m%dT%H%M%S')}.jsonl", "a") as kept:
        for case in cases:
            for row in run_case(case, work):
                rows.append(row)
                kept.write(json.dumps(row) + "\n")
                kept.flush()
                amounts = [row.get(key) for key in ("measured", "predicted", "budget")]
                shown = " / ".join(f"{n // MIB}" if n else "-" for n in amounts)
                wrong = faults(row) + (["worth little"] if worth_little(row) else [])
                print(
                    f"{row['seed']}.{row['number']} {row['domain']} {row['data']} to "
                    f"{row['format']}, {row['place']}, {row['workers']} workers: {shown} MiB "
                    f"{'; '.join(wrong) if wrong else row.get('refused', '')}"[:300],
                    flush=True,
                )
    return rows


def fuzz(work: Path, *, quick: bool = False, peers: bool = True) -> list[Table]:
    """A hundred cases of one seed (twenty where it must be quick)."""
    cases = (draw(number, seed=1) for number in range(20 if quick else 100))
    return tables(run_all(work / "promise", cases))


SECTIONS = {"fuzz": fuzz}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "promise")
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.cases)
    rows = run_all(options.work, (draw(number, options.seed) for number in numbers))
    for table in tables(rows):
        print(table)
    sys.exit(any(map(faults, rows)))


if __name__ == "__main__":
    main()
