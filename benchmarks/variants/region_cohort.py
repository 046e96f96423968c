"""Cleaned signals of many images: WAY LABELS WORKERS TARGET IMAGE...

Ways: masker, run (a pipeline into tables), nilearn. Signals go into TARGET, a .npy file, or a
folder for "run".
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from timed import say, timed, warm_up

from penstock.memory.accounting import process_base

OPTIONS: dict[str, Any] = {
    "standardize": "zscore_sample", "detrend": True, "low_pass": 0.1, "high_pass": 0.01,
    "t_r": 2.0,
}  # fmt: skip


def main() -> None:
    way, labels, workers, target, *images = sys.argv[1:]
    if way == "nilearn":
        from nilearn.maskers import MultiNiftiLabelsMasker
    else:
        from penstock.fmri import MultiNiftiLabelsMasker  # type: ignore[assignment]
    if way == "run":
        process_base()  # (imports what a run imports)

    def work(images: list[str], labels: str, n_jobs: int, out: str) -> Any:
        masker = MultiNiftiLabelsMasker(labels, n_jobs=n_jobs, **OPTIONS)
        if way != "run":
            return masker.fit_transform(images)
        return masker.pipeline().run(
            images, out, workers=n_jobs, format="parquet", memory="1GiB", overwrite=True,
            progress=False,
        )  # fmt: skip

    warm_up(
        lambda f: work([str(f / "bold.nii.gz")], str(f / "labels.nii.gz"), 1, str(f / "tables"))
    )
    found, said = timed(lambda: work(images, labels, int(workers), target))
    if way == "run":
        assert found.ok, found
    else:
        np.save(target, np.stack(found))
    say(**said)


if __name__ == "__main__":
    main()
