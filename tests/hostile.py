"""Small files of every format, damaged at random, and what opening them comes to.

Run as a program it is the child that opens the files: it limits its own memory and time, and writes
one JSON line a file.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

SECONDS = 15
"""How long opening a small file and reading a region of it may take."""
MEMORY = 3 << 30
"""Address space of the process that opens [bytes]: libraries alone take a third."""


def write_samples(folder: Path) -> list[Path]:
    """One small file of each format (a folder for those that are folders)."""
    import h5py
    import numpy as np
    import scipy.io

    import penstock as ps
    from penstock.storage.store import write_store

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    eeg = ps.make_dataset(
        rng.standard_normal((4, 1200)).astype("float32"),
        sampling_frequency=100.0,
        units="uV",
        coords={"channel": ["Fp1", "Cz", "O2", "EOG"]},
    )
    eeg = ps.with_events(eeg, {"onset": [1.0, 5.0], "duration": [0.0, 1.0], "label": ["a", "b"]})
    made = []
    for name in ("eeg.edf", "eeg_raw.fif"):
        ps.export(eeg, folder / name)
        made.append(folder / name)
    write_store(eeg, folder / "eeg.zarr")
    made.append(folder / "eeg.zarr")
    volumes = rng.standard_normal((5, 6, 4, 10)).astype("float32")
    import nibabel

    for name in ("bold.nii", "bold.nii.gz", "bold.mgz"):
        image = nibabel.Nifti1Image(volumes, np.eye(4))
        if name.endswith("mgz"):
            image = nibabel.MGHImage(volumes, np.eye(4))
        nibabel.save(image, folder / name)
        made.append(folder / name)
    np.save(folder / "array.npy", volumes)
    np.savez(folder / "array.npz", a=volumes)
    np.savez_compressed(folder / "packed.npz", a=volumes)
    made += [folder / name for name in ("array.npy", "array.npz", "packed.npz")]
    scipy.io.savemat(folder / "array.mat", {"a": volumes}, do_compression=True)
    made.append(folder / "array.mat")
    with h5py.File(folder / "array.h5", "w") as file:
        data = file.create_dataset("scan", data=volumes, chunks=(5, 6, 2, 5), compression="gzip")
        data.attrs["units"] = "V"
        file["note"] = "plain"
    made.append(folder / "array.h5")
    return made + write_brainvision(folder)


def write_brainvision(folder: Path) -> list[Path]:
    """A BrainVision recording: header, markers and samples."""
    import numpy as np

    values = np.arange(4 * 600, dtype="<f4").reshape(600, 4)
    (folder / "brain.eeg").write_bytes(values.tobytes())
    (folder / "brain.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        "DataFile=brain.eeg\n[Marker Infos]\nMk1=Stimulus,S  1,100,1,0\n"
    )
    channels = "\n".join(f"Ch{i}={n},,1,µV" for i, n in enumerate("ABCD", 1))
    (folder / "brain.vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        "DataFile=brain.eeg\nMarkerFile=brain.vmrk\nDataFormat=BINARY\n"
        "DataOrientation=MULTIPLEXED\nNumberOfChannels=4\nSamplingInterval=10000\n"
        f"[Binary Infos]\nBinaryFormat=IEEE_FLOAT_32\n[Channel Infos]\n{channels}\n"
    )
    return [folder / "brain.vhdr"]


def damage(sample: Path, target: Path, seed: int) -> None:
    """A copy of a file or folder, flipped, overwritten or cut at random."""
    if sample.is_dir():
        shutil.copytree(sample, target)
        files = sorted(path for path in target.rglob("*") if path.is_file())
        chosen = random.Random(seed).choice([p for p in files if p.stat().st_size] or files)
        chosen.write_bytes(damaged(chosen.read_bytes(), seed))
        return
    target.write_bytes(damaged(sample.read_bytes(), seed))


def damaged(content: bytes, seed: int) -> bytes:
    """Bytes changed at random; mostly near the beginning, where headers are."""
    draw = random.Random(seed)
    data = bytearray(content)
    kind = draw.choice(["flip", "flip", "digits", "large", "cut", "zeros", "swap"])
    head = max(1, min(len(data), draw.choice([64, 512, 2048, len(data)])))
    for _ in range(draw.choice([1, 1, 2, 8])):
        at = draw.randrange(head)
        if kind == "flip":
            data[at] = draw.randrange(256)
        elif kind == "digits":
            digits = [i for i in range(head) if 48 <= data[i] <= 57]
            if digits:
                data[draw.choice(digits)] = draw.choice(b"0123456789-e.")
        elif kind == "large":
            data[at : at + 4] = draw.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"])
        elif kind == "zeros":
            data[at : at + 8] = bytes(len(data[at : at + 8]))
        elif kind == "swap":
            other = draw.randrange(head)
            data[at], data[other] = data[other], data[at]
    if kind == "cut":
        del data[draw.randrange(len(data)) :]
    return bytes(data)


def outcomes(paths: list[Path]) -> list[dict[str, str]]:
    """What opening each file and reading a region of it came to, in a process of its own."""
    found: list[dict[str, str]] = []
    while len(found) < len(paths):
        left = [str(path) for path in paths[len(found) :]]
        done = subprocess.run(
            [sys.executable, __file__],
            input="\n".join(left),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=len(left) * SECONDS + 60,
        )
        said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        found += said
        if len(said) < len(left):  # it died of that one
            why = f"ended with {done.returncode}: {done.stderr[-300:]}"
            found.append({"path": left[len(said)], "kind": "died", "text": why, "raised": ""})
    return found


def _try(path: str) -> dict[str, str]:
    import penstock as ps

    try:
        ds = ps.open_dataset(path)
        signal = ds["signal"]
        few = {dim: slice(0, 3) for dim in signal.dims}
        signal.isel(few).values  # noqa: B018
        repr(ds)
        return {"path": path, "kind": "read", "text": "", "raised": ""}
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return {
            "path": path,
            "kind": type(error).__name__,
            "text": str(error),
            "raised": f"{last.filename}:{last.lineno}",
            "sentence": str(isinstance(error, OSError | ValueError | TypeError | ImportError)),
        }


def _main() -> None:
    import warnings

    import penstock.io  # noqa: F401
    from penstock.eeg import MNE  # noqa: F401

    warnings.simplefilter("ignore")
    paths = [line for line in sys.stdin.read().splitlines() if line]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    class TookTooLong(BaseException):
        pass

    def stop(*_: object) -> None:
        raise TookTooLong(f"took more than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    for path in paths:
        signal.alarm(SECONDS)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = _try(path)
        signal.alarm(0)
        rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
        print(json.dumps({**said, "rise_mib": rise // 1024}), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _main()
