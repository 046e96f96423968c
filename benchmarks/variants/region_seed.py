"""Signals of the regions of several masks, as in the experiment of the seed document.

WAY SOURCE MASKS N_REGIONS N_JOBS TARGET: the first masks of a folder (an atlas of labels for the
ways "atlas" and "nilearn-labels"); means of the regions go into TARGET (.npy; "-": nowhere).

Ways of Penstock: means, voxels, store, atlas; means-zlib without isal. Ways to read the file once:
isal, zlib, read. Peers: nilearn (one region after the other), nilearn-memory, nilearn-bare (without
its report), nilearn-labels, nilearn-parallel, nilearn-parallel-memory, numpy, numpy-memory,
numpy-parallel, numpy-parallel-memory, numpy-shared.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from timed import clock, say, timed, warm_up

BUFFER_BYTES = 1 << 20


def main() -> None:
    way, source, masks, n_regions, n_jobs, target = sys.argv[1:]
    paths = [masks]
    if Path(masks).is_dir():
        paths = sorted(map(str, Path(masks).glob("mask_*.nii.gz")))[: int(n_regions)]
    if way in READERS:
        _, said = timed(lambda: READERS[way](source))
        say(**said)
        return
    if way == "store":
        signals, said = None, to_store(source, paths, target)
    elif way.startswith(("nilearn", "numpy")):
        signals, said = peer(way, source, paths, int(n_jobs))
    else:
        signals, said = penstock(way, source, paths)
    if signals is not None and target != "-":
        np.save(target, np.stack([each.mean(axis=1, dtype=np.float64) for each in signals]))
    say(**said)


# ---------------------------------------------------------------------- the file, once


def inflate_isal(source: str) -> None:
    from isal import igzip

    buffer = bytearray(BUFFER_BYTES)
    with igzip.open(source) as file:
        while file.readinto(buffer):
            pass


def inflate_zlib(source: str) -> None:
    buffer, stream = bytearray(BUFFER_BYTES), zlib.decompressobj(31)
    with open(source, "rb", buffering=0) as file:
        while n_bytes := file.readinto(buffer):
            data = bytes(memoryview(buffer)[:n_bytes])
            while data:
                stream.decompress(data, BUFFER_BYTES)
                data = stream.unconsumed_tail


def read(source: str) -> None:
    buffer = bytearray(BUFFER_BYTES)
    with open(source, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


READERS = {"isal": inflate_isal, "zlib": inflate_zlib, "read": read}


# ---------------------------------------------------------------------- Penstock


def penstock(way: str, source: str, paths: list[str]) -> tuple[list[np.ndarray], dict]:
    if way == "means-zlib":
        sys.modules["isal"] = None  # type: ignore[assignment]
    from penstock.fmri import NiftiLabelsMasker, NiftiMasker, extract

    masker = NiftiMasker if way == "voxels" else NiftiLabelsMasker

    def work(image: str, masks: list[str]) -> list[np.ndarray]:
        return extract(image, [masker(mask) for mask in masks])

    warm_up(lambda small: work(str(small / "bold.nii.gz"), [str(small / "mask.nii.gz")] * 2))
    signals, said = timed(lambda: work(source, paths), regions=len(paths))
    if way == "atlas":
        signals = [signals[0][:, [n]] for n in range(signals[0].shape[1])]
    return signals, said


def to_store(source: str, paths: list[str], target: str) -> dict:
    import penstock as ps
    from penstock.fmri import ExtractTogether, ExtractVoxels
    from penstock.memory.accounting import process_base

    process_base()  # (imports what a run imports)

    def work(image: str, masks: list[str], out: Path) -> None:
        together = ExtractTogether(tuple(ExtractVoxels(mask) for mask in masks))
        report = ps.Pipeline([together]).run(
            {out.stem: image}, out.parent, memory="300MiB", overwrite=True, progress=False
        )
        assert report.ok, report

    warm_up(lambda f: work(str(f / "bold.nii.gz"), [str(f / "mask.nii.gz")] * 2, f / "out.zarr"))
    _, said = timed(lambda: work(source, paths, Path(target)), regions=len(paths))
    return said


# ---------------------------------------------------------------------- peers


def nilearn_region(image: Any, mask: Any, reports: bool = True) -> np.ndarray:
    from nilearn.maskers import NiftiMasker

    return NiftiMasker(mask, reports=reports).fit_transform(image)


def numpy_region(source: str, mask: str) -> np.ndarray:
    import nibabel

    return np.asarray(nibabel.load(source).dataobj)[inside(mask)].T


def array_region(data: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return data[mask].T


def inside(mask: str) -> np.ndarray:
    import nibabel

    return np.asarray(nibabel.load(mask).dataobj).astype(bool)


def loaded(source: str) -> Any:
    """An image whose values are in memory, as they are stored."""
    import nibabel

    image = nibabel.load(source)
    return nibabel.Nifti1Image(np.array(image.dataobj, order="F"), image.affine, image.header)


def warm_worker(kind: str) -> None:
    """What a worker does before its first region."""
    region = nilearn_region if kind == "nilearn" else numpy_region
    warm_up(lambda small: region(str(small / "bold.nii.gz"), str(small / "mask.nii.gz")))


def peer(way: str, source: str, paths: list[str], n_jobs: int) -> tuple[list[np.ndarray], dict]:
    import joblib
    import nibabel

    kind = way.split("-")[0]
    warm_worker(kind)
    if way == "nilearn-labels":
        from nilearn.maskers import NiftiLabelsMasker

        signals, said = timed(lambda: NiftiLabelsMasker(paths[0]).fit_transform(source), regions=20)
        return [signals[:, [n]] for n in range(signals.shape[1])], said
    region: Callable[..., np.ndarray] = nilearn_region if kind == "nilearn" else numpy_region
    data, masks, once, block = source, list(paths), 0.0, None
    if way.endswith(("memory", "shared")):
        data, once = clock(lambda: loaded(source))
        masks = [nibabel.load(path) for path in paths]
        if kind == "numpy":
            data, masks = np.asarray(data.dataobj), [inside(path) for path in paths]
            region = array_region
    if way == "numpy-shared":
        # what joblib is given lies in shared memory; it makes a copy in a file all the same
        block = SharedMemory(create=True, size=data.nbytes)
        shared = np.ndarray(data.shape, data.dtype, buffer=block.buf, order="F")
        once += clock(lambda: np.copyto(shared, data))[1]
        data = shared
        del shared
    run: Callable[[list[Any]], list[np.ndarray]] = _one_after_the_other
    if n_jobs > 1:
        run = joblib.Parallel(n_jobs=n_jobs, pre_dispatch="all", batch_size=1)
        once += clock(lambda: run([joblib.delayed(warm_worker)(kind)] * n_jobs))[1]
    options = {"reports": False} if way == "nilearn-bare" else {}
    tasks = [joblib.delayed(region)(data, mask, **options) for mask in masks]
    signals, said = timed(lambda: run(tasks), once=once, regions=len(paths))
    if block is not None:
        del data, tasks
        block.close()
        block.unlink()
    return signals, said


def _one_after_the_other(tasks: list[Any]) -> list[np.ndarray]:
    return [function(*arguments, **options) for function, arguments, options in tasks]


if __name__ == "__main__":
    main()
