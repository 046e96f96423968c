"""Small files that stand for very much: refused before they fill the memory."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tracemalloc
import zipfile
import zlib

import h5py
import numcodecs
import numpy as np
import pytest
import zarr
from hostile import outcomes
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

import penstock as ps
from penstock.errors import BudgetError

MIB = 1 << 20
ZEROS = bytes(MIB)


def deflated(n_mib: int, wbits: int = 15) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, wbits)
    return b"".join([packer.compress(ZEROS) for _ in range(n_mib)]) + packer.flush()


def header(shape, version=1):
    file = io.BytesIO()
    write = np.lib.format.write_array_header_1_0
    write(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue()


def npz(path, shape, mib):
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.npy", "w", force_zip64=True) as member,
    ):
        member.write(header(shape))
        for _ in range(mib):
            member.write(ZEROS)


def test_archives_that_announce_more_than_they_hold(tmp_path):
    npz(tmp_path / "a.npz", (1 << 40, 8), 1)
    with pytest.raises(ValueError, match=r"announces 70368744177664 bytes .* holds 1048704 bytes"):
        ps.open_dataset(tmp_path / "a.npz")


def test_archives_that_are_larger_than_the_memory(tmp_path, monkeypatch):
    npz(tmp_path / "a.npz", (64, 1 << 17), 64)
    ds = ps.open_dataset(tmp_path / "a.npz")
    monkeypatch.setattr("penstock.io.room.available_memory", lambda: 32 * MIB)
    with pytest.raises(OSError, match=r"takes 64 MiB of memory at once, more than there is"):
        ds.signal[0].values  # noqa: B018
    with pytest.raises(BudgetError):
        ps.Pipeline([ps.Apply(np.abs, core_dims=())]).plan(ds, memory="150 MiB")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 0xFFFFFFF0) + b"{" * 1000, "bytes of header"),
        (header((1 << 50, 8)), "is cut short: it announces"),
        (header((4, 4)).replace(b"(4, 4)", b"(-4,4)"), "no usable NumPy header"),
    ],
)
def test_headers_of_arrays_that_announce_anything(tmp_path, content, problem):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        ps.open_dataset(tmp_path / "a.npy")


@pytest.mark.parametrize("values", [1 << 17, 1 << 21])
def test_chunks_of_hdf5_that_hold_more_than_they_should(tmp_path, values):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("a", (values,), "f8", chunks=(values,), compression="gzip")
        data.id.write_direct_chunk((0,), deflated(600))
    ds = ps.open_dataset(path)
    with pytest.raises(OSError, match="chunks that hold more than they should"):
        ds.signal[:3].values  # noqa: B018


def test_large_chunks_of_hdf5_that_hold_what_they_should(tmp_path):
    values = np.random.default_rng(0).standard_normal(1 << 19)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", data=values, chunks=values.shape, compression="gzip", shuffle=True)
        file.create_dataset(
            "b", data=values, chunks=values.shape, compression="gzip", fletcher32=True
        )
    for name in "ab":
        ds = ps.open_dataset(tmp_path / "a.h5", dataset=name)
        assert np.array_equal(ds.signal[5:9].values, values[5:9])


def test_chunks_of_hdf5_that_are_larger_than_the_memory(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", (1 << 28,), "f8", chunks=(1 << 28,), compression="gzip")
    ds = ps.open_dataset(tmp_path / "a.h5")
    monkeypatch.setattr("penstock.io.room.available_memory", lambda: 512 * MIB)
    with pytest.raises(OSError, match=r"a chunk of /a .* more than there is"):
        ds.signal[:3].values  # noqa: B018


def store(path, compressor, chunk, dtype="f4"):
    group = zarr.open_group(path, mode="w", zarr_format=3)
    array = group.create_array(
        "signal", shape=(4, 100), chunks=(4, 100), dtype=dtype, compressors=compressor,
        dimension_names=("channel", "time"),
    )  # fmt: skip
    array[...] = 1
    if chunk is not None:
        (path / "signal" / "c" / "0" / "0").write_bytes(chunk)
    return path


@pytest.mark.parametrize(
    ("compressor", "pack"),
    [
        (GzipCodec(), lambda: deflated(64, 31)),
        (GzipCodec(), lambda: gzip.compress(bytes(1600)) + deflated(64, 31)),
        (ZstdCodec(), lambda: numcodecs.Zstd(1).encode(np.zeros(64 * MIB, "u1"))),
        (BloscCodec(), lambda: numcodecs.Blosc("zstd", 1).encode(np.zeros(64 * MIB, "u1"))),
    ],
)  # fmt: skip
def test_chunks_of_zarr_that_hold_more_than_they_should(tmp_path, compressor, pack):
    ds = ps.open_dataset(store(tmp_path / "a.zarr", compressor, pack()))
    tracemalloc.start()
    with pytest.raises(OSError, match=r"a\.zarr.*(holds? more than|does not hold)"):
        ds.signal[:, :3].values  # noqa: B018
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * MIB


@pytest.mark.parametrize("compressor", [GzipCodec(), ZstdCodec(), BloscCodec()])
def test_chunks_of_others_are_read(tmp_path, compressor):
    ds = ps.open_dataset(store(tmp_path / "a.zarr", compressor, None, "i2"))
    assert (pickle.loads(pickle.dumps(ds)).signal.values == 1).all()


def test_codecs_of_others_stay_as_they_were(tmp_path):
    path = store(tmp_path / "a.zarr", GzipCodec(), None)
    ps.open_dataset(path)
    codec = zarr.open_array(path, path="signal").metadata.codecs[-1]
    assert type(codec) is GzipCodec


def test_coordinates_of_zarr_that_hold_more_than_they_should(tmp_path):
    path = store(tmp_path / "a.zarr", None, None)
    names = zarr.open_group(path).create_array(
        "channel", shape=(4,), chunks=(4,), dtype="i4", compressors=GzipCodec(),
        dimension_names=("channel",),
    )  # fmt: skip
    names[...] = np.arange(4)
    (path / "channel" / "c" / "0").write_bytes(deflated(64, 31))
    with pytest.raises(ValueError, match=r"more than the .* bytes that it should"):
        ps.open_dataset(path)


def test_variables_of_matlab_that_hold_more_than_they_should(tmp_path, monkeypatch):
    import scipy.io

    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"a": np.zeros((1 << 20, 8))}, do_compression=True)
    ds = ps.open_dataset(path)
    monkeypatch.setattr("penstock.io.room.available_memory", lambda: 32 * MIB)
    with pytest.raises(OSError, match=r"a of .*a\.mat takes 128 MiB of memory at once"):
        ds.signal[:2].values  # noqa: B018


def test_variables_of_matlab_that_announce_more_than_they_have(tmp_path):
    import scipy.io

    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"a": np.zeros((4, 4))})
    raw = bytearray(path.read_bytes())
    at = raw.find(struct.pack("<II", 5, 8)) + 8
    raw[at : at + 8] = struct.pack("<ii", 1 << 30, 1 << 2)
    packed = zlib.compress(bytes(raw[128:]))
    path.write_bytes(bytes(raw[:128]) + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(ValueError, match="more values than it has bytes"):
        ps.open_dataset(path)


def test_compressed_images_that_hold_more_than_they_should(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    head = nibabel.Nifti1Header()
    head.set_data_shape((4, 4, 4, 10))
    head.set_data_dtype("f4")
    small = head.binaryblock + bytes(4)
    (tmp_path / "long.nii.gz").write_bytes(gzip.compress(small) + deflated(512, 31))
    head["vox_offset"] = float(1 << 30)
    head["magic"] = b"n+1"
    extended = head.binaryblock + b"\1\0\0\0" + struct.pack("<ii", (1 << 30) - 352, 6)
    (tmp_path / "far.nii.gz").write_bytes(gzip.compress(extended) + deflated(1024, 31))
    said = outcomes([tmp_path / "long.nii.gz", tmp_path / "far.nii.gz"])
    assert all(one["rise_mib"] < 100 for one in said), said
    assert all(one["kind"] in ("read", "OSError", "ValueError") for one in said), said
