"""Compressed images of every kind, and what their streams may look like."""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import penstock as ps
from penstock.fmri import NiftiLabelsMasker
from penstock.io.nifti.open import close_streams
from penstock.reading import reading_of
from penstock.testing import check_reader

nib = pytest.importorskip("nibabel")

AFFINE = np.diag([3.0, 3, 3, 1])
SHAPE = (40, 32, 10, 20)


def zstd(data: bytes, **options: int) -> bytes:
    try:
        from compression import zstd as module  # type: ignore[import-not-found]
    except ImportError:
        module = pytest.importorskip("backports.zstd")
    return module.compress(data, **options)


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda data: gzip.compress(data, 1),
    ".bz2": lambda data: bz2.compress(data),
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".zst": lambda data: zstd(data),
}


def image(shape: tuple[int, ...] = SHAPE) -> nib.Nifti1Image:
    values = np.random.default_rng(4).integers(-999, 999, shape).astype("i2")
    made = nib.Nifti1Image(values, AFFINE)
    made.header.set_xyzt_units("mm", "sec")
    made.header["pixdim"][4] = 2
    return made


def values_of(made: nib.Nifti1Image) -> np.ndarray:
    return np.asarray(made.dataobj)


@pytest.fixture(autouse=True)
def no_streams() -> None:
    close_streams()


@pytest.mark.parametrize("suffix", PACK)
def test_every_compression_keeps_the_contract(tmp_path: Path, suffix: str) -> None:
    made = image()
    path = tmp_path / f"bold.nii{suffix}"
    path.write_bytes(PACK[suffix](made.to_bytes()))
    # (bzip2 has to inflate most of a megabyte to tell what a file is)
    ds = ps.open_dataset(path) if suffix == ".bz2" else check_reader(path)
    assert reading_of(ds.signal).sequential
    assert np.array_equal(ds.signal.values, values_of(made))
    part = ds.signal[5:30:3, [3, 9, 1], 2:5, 15:2:-3]
    assert np.array_equal(part.values, values_of(made)[5:30:3][:, [3, 9, 1], 2:5, 15:2:-3])
    assert np.array_equal(pickle.loads(pickle.dumps(ds)).signal[3:5].values, values_of(made)[3:5])
    if suffix != ".xz":  # (nibabel knows the others)
        assert np.array_equal(ds.signal.values, nib.load(path).get_fdata())


@pytest.mark.parametrize("suffix", PACK)
def test_any_name_and_several_streams(tmp_path: Path, suffix: str) -> None:
    made, pack = image((9, 8, 7, 6)), PACK[suffix]
    data = made.to_bytes()
    several = [data[:100], b"", data[100:5000], data[5000:]]
    for parts in ([data], several, [b"", *several, b""]):
        path = tmp_path / f"bold.nii{suffix}"
        path.write_bytes(b"".join(map(pack, parts)))
        assert np.array_equal(ps.open_dataset(path).signal.values, values_of(made))
        close_streams()
    for tail in (bytes(8), bytes(100_000), b"something else"):
        path.write_bytes(b"".join(map(pack, several)) + tail)
        assert np.array_equal(ps.open_dataset(path).signal.values, values_of(made))
        close_streams()
    path.write_bytes(bytes(512 * 4).join(map(pack, several)))
    assert np.array_equal(ps.open_dataset(path).signal.values, values_of(made))


def test_gzip_in_small_blocks_that_begin_with_nothing(tmp_path: Path) -> None:
    made = image()
    data = made.to_bytes()
    pieces = [b"", *(data[at : at + 65_280] for at in range(0, len(data), 65_280)), b""]
    path = tmp_path / "blocked.nii.gz"
    path.write_bytes(b"".join(gzip.compress(piece, 1) for piece in pieces))
    ds = check_reader(path)
    assert np.array_equal(ds.signal.values, values_of(made))
    assert np.array_equal(ds.signal[..., 15:2:-3].values, values_of(made)[..., 15:2:-3])


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("fraction", [0.5, 0.999])
def test_what_is_cut_short_says_so(tmp_path: Path, suffix: str, fraction: float) -> None:
    packed = PACK[suffix](image().to_bytes())
    path = tmp_path / f"bold.nii{suffix}"
    path.write_bytes(packed[: int(fraction * len(packed))])
    # (bzip2 inflates most of a megabyte to tell what a file is, which is all of this one)
    told = r"cut short or damaged" if suffix == ".bz2" else r"cut short after \d+ of 20 volumes"
    with pytest.raises(OSError, match=told):
        ps.open_dataset(path).signal.values  # noqa: B018
    path.write_bytes(packed[:20])
    with pytest.raises((OSError, ValueError), match=r"bold\.nii"):
        ps.open_dataset(path)


@pytest.mark.parametrize("suffix", PACK)
def test_what_is_damaged_says_so(tmp_path: Path, suffix: str) -> None:
    packed = bytearray(PACK[suffix](image().to_bytes()))
    middle = len(packed) // 2
    packed[middle : middle + 64] = bytes(64)
    path = tmp_path / f"bold.nii{suffix}"
    path.write_bytes(bytes(packed))
    if suffix == ".zst":  # (which has no checksum unless asked for)
        return
    told = r"cut short or damaged" if suffix == ".bz2" else r"damaged after \d+ of 20 volumes"
    with pytest.raises(OSError, match=told):
        ps.open_dataset(path).signal.values  # noqa: B018


@pytest.mark.parametrize("suffix", PACK)
def test_pairs_and_other_formats(tmp_path: Path, suffix: str) -> None:
    made = nib.Nifti1Pair(values_of(image((5, 4, 3, 6))), AFFINE)
    made.to_filename(tmp_path / "pair.hdr")
    packed = tmp_path / f"pair.img{suffix}"
    packed.write_bytes(PACK[suffix]((tmp_path / "pair.img").read_bytes()))
    (tmp_path / "pair.img").unlink()
    for name in ("pair.hdr", packed.name):
        assert np.array_equal(ps.open_dataset(tmp_path / name).signal.values, values_of(made))
    (tmp_path / f"pair.hdr{suffix}").write_bytes(PACK[suffix]((tmp_path / "pair.hdr").read_bytes()))
    (tmp_path / "pair.hdr").unlink()
    for name in (f"pair.hdr{suffix}", packed.name):
        assert np.array_equal(ps.open_dataset(tmp_path / name).signal.values, values_of(made))
    volume = nib.MGHImage(values_of(image((5, 4, 3))).astype("f4"), AFFINE)
    path = tmp_path / f"volume.mgh{suffix}"
    path.write_bytes(PACK[suffix](volume.to_bytes()))
    assert np.array_equal(ps.open_dataset(path).signal.values, volume.get_fdata())


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
def test_atlases_and_runs_alike(tmp_path: Path, suffix: str) -> None:
    labels = np.ones(SHAPE[:3], "i2")
    labels[20:] = 2
    for name, made in (("bold", image()), ("atlas", nib.Nifti1Image(labels, AFFINE))):
        (tmp_path / f"{name}.nii{suffix}").write_bytes(PACK[suffix](made.to_bytes()))
    found = NiftiLabelsMasker(tmp_path / f"atlas.nii{suffix}").fit_transform(
        str(tmp_path / f"bold.nii{suffix}")
    )
    values = values_of(image()).astype(float)
    assert np.allclose(found[:, 0], values[:20].mean(axis=(0, 1, 2)), rtol=1e-12)


def test_large_windows_are_counted(tmp_path: Path) -> None:
    made = image((8, 8, 40, 20))
    path = tmp_path / "bold.nii.xz"
    path.write_bytes(lzma.compress(made.to_bytes(), preset=9))
    assert reading_of(ps.open_dataset(path).signal).resident_bytes > 64 << 20
    path = tmp_path / "bold.nii.zst"
    path.write_bytes(zstd(made.to_bytes()))
    assert 8 << 20 <= reading_of(ps.open_dataset(path).signal).resident_bytes <= 32 << 20
    assert np.array_equal(ps.open_dataset(path).signal[..., 7].values, values_of(made)[..., 7])


def test_a_folder_holds_them_too(tmp_path: Path) -> None:
    from penstock.running.sources import expand_paths, result_name

    for suffix in PACK:
        path = tmp_path / f"run{suffix[1:]}.nii{suffix}"
        path.write_bytes(PACK[suffix](image((4, 3, 2, 5)).to_bytes()))
    found = expand_paths(tmp_path)
    assert [result_name(path) for path in found] == ["runbz2", "rungz", "runxz", "runzst"]
