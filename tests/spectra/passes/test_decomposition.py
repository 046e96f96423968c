"""SVD, PCA, NMF and k-means out of core, against whole-array results."""

from __future__ import annotations

import sys
import tracemalloc
import warnings
from pathlib import Path

import dask.array
import numpy as np
import pytest
import xarray as xr

import penstock as ps
from penstock.dataset import lazy_variable
from penstock.errors import BudgetError
from penstock.memory.accounting import MIB, resident
from penstock.spectra import kmeans, nmf, pca, svd
from penstock.spectra.passes import clustering, passes
from penstock.testing import virtual_dataset

DIMS = ("y", "x", "frequency")


def spectra(shape=(20, 15), n_core=40, rank=6, dtype="float64", noise=1e-3, seed=0) -> np.ndarray:
    """A few components of falling size, and noise."""
    rng = np.random.default_rng(seed)

    def normal(*size: int) -> np.ndarray:
        values = rng.standard_normal(size)
        return values + 1j * rng.standard_normal(size) if np.dtype(dtype).kind == "c" else values

    maps = normal(*shape, rank) * 3.0 ** -np.arange(rank)
    return (maps @ normal(rank, n_core) + noise * normal(*shape, n_core)).astype(dtype)


def mixtures(shape=(12, 10), n_core=50, n=3, seed=0) -> np.ndarray:
    """Non-negative: peaks mixed by random amounts."""
    rng = np.random.default_rng(seed)
    centres = np.linspace(5, n_core - 5, n)
    peaks = np.exp(-(((np.arange(n_core) - centres[:, None]) / 6) ** 2))
    return rng.gamma(1.0, 1.0, (*shape, n)) @ peaks + 0.01 * rng.random((*shape, n_core))


def groups(shape=(15, 12), n_core=20, n=4, seed=0) -> np.ndarray:
    """Spectra around a few centres."""
    rng = np.random.default_rng(seed)
    centres = 4 * rng.standard_normal((n, n_core)) + 50
    return centres[rng.integers(0, n, shape)] + rng.standard_normal((*shape, n_core))


def lazy(values: np.ndarray, dims=DIMS, **encoding) -> xr.Dataset:
    def read(*indexers: slice) -> np.ndarray:
        return values[indexers].copy()

    return ps.make_dataset(lazy_variable(dims, read, values.shape, values.dtype, encoding=encoding))


def as_matrix(values: np.ndarray) -> np.ndarray:
    wide = values.astype(np.result_type(values, "float64"))
    return wide.reshape(-1, values.shape[-1])


@pytest.fixture
def small_pieces(monkeypatch):
    """Cuts of a few positions and several tasks, in small data."""
    monkeypatch.setattr(passes, "PIECE_BYTES", 2000)
    monkeypatch.setattr(passes, "TASK_BYTES", 9000)
    monkeypatch.setattr(passes, "BLOCK_BYTES", 7000)


# ---------------------------------------------------------------------- SVD


@pytest.mark.parametrize("method", ["exact", "randomized"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128", "int16"])
def test_svd_is_that_of_numpy(small_pieces, dtype, method):
    values = spectra(dtype=dtype) if dtype != "int16" else (100 * spectra()).astype(dtype)
    out = svd(lazy(values), 4, method=method)
    matrix = as_matrix(values)
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(out["singular_values"], sizes[:4], rtol=1e-12)
    np.testing.assert_allclose(
        out["explained_variance_ratio"], sizes[:4] ** 2 / (sizes**2).sum(), rtol=1e-11
    )
    found = out["components"].values
    np.testing.assert_allclose(found @ found.conj().T, np.eye(4), atol=1e-13)
    single = dtype in ("float32", "complex64")
    assert out["maps"].dtype == (dtype if single else np.result_type(dtype, "float32"))
    product = out["maps"].values.reshape(-1, 4) @ found
    best = (left[:, :4] * sizes[:4]) @ right[:4]
    precise = out["maps"].dtype.name in ("float64", "complex128")
    np.testing.assert_allclose(product, best, atol=sizes[0] * (1e-12 if precise else 1e-6))
    # up to a phase, which is fixed: the largest entry is real and positive
    overlap = (found * right[:4].conj()).sum(axis=1)
    np.testing.assert_allclose(np.abs(overlap), 1, atol=1e-12)
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1)
    assert (largest.real > 0).all()
    np.testing.assert_allclose(largest.imag, 0, atol=1e-15)


def test_exact_svd_keeps_small_singular_values(small_pieces):
    rng = np.random.default_rng(1)
    left = np.linalg.qr(rng.standard_normal((300, 12)))[0]
    right = np.linalg.qr(rng.standard_normal((40, 12)))[0]
    sizes = 10.0 ** -np.arange(12)
    ds = lazy(((left * sizes) @ right.T).reshape(20, 15, 40))
    out = svd(ds, 12)
    # (the Gram matrix would leave nothing of those below 1e-8)
    np.testing.assert_allclose(out["singular_values"], sizes, rtol=1e-3, atol=1e-16)


def test_long_spectra_take_the_randomized_method(small_pieces):
    values = spectra((10, 8), 3000, dtype="float32")
    out = svd(lazy(values), 3)
    assert "method='randomized'" in out.attrs["decomposition"]
    assert "method='exact'" in svd(lazy(values[..., :50]), 3).attrs["decomposition"]
    sizes = np.linalg.svd(as_matrix(values), compute_uv=False)
    np.testing.assert_allclose(out["singular_values"], sizes[:3], rtol=1e-10)
    again = svd(lazy(values), 3, seed=0)
    assert out.identical(again)


@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_fewer_positions_than_values(method):
    values = spectra((3, 4), 100)
    out = svd(lazy(values), 12, method=method)
    np.testing.assert_allclose(
        out["singular_values"], np.linalg.svd(as_matrix(values), compute_uv=False), rtol=1e-9
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_pca_is_that_of_scikit_learn(small_pieces, dtype, method):
    decomposition = pytest.importorskip("sklearn.decomposition")
    values = (spectra() + 1000 + np.arange(40)).astype(dtype)
    out = pca(lazy(values), 4, method=method)
    matrix = as_matrix(values)
    right = decomposition.PCA(4, svd_solver="full").fit(matrix)
    np.testing.assert_allclose(out["components"], right.components_, atol=1e-10)
    np.testing.assert_allclose(out["explained_variance"], right.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(
        out["explained_variance_ratio"], right.explained_variance_ratio_, rtol=1e-10
    )
    np.testing.assert_allclose(out["singular_values"], right.singular_values_, rtol=1e-10)
    np.testing.assert_allclose(out["mean"], right.mean_, rtol=1e-13)
    np.testing.assert_allclose(
        out["maps"].values.reshape(-1, 4),
        right.transform(matrix),
        atol=1e-9 if dtype == "float64" else 1e-5,
    )


def test_decompositions_of_data_in_any_order_and_form(small_pieces):
    values = spectra((6, 7), 30, rank=3)
    right = svd(ps.make_dataset(values, DIMS), 3)
    assert right["maps"].dims == ("y", "x", "component")
    moved = values.transpose(2, 0, 1)
    dims = ("frequency", "y", "x")
    chunks = {"frequency": 7, "y": 2, "x": 3}
    for ds in (
        lazy(moved, dims),
        lazy(moved, dims, preferred_chunks=chunks),
        lazy(values, interleaved=True),
        ps.make_dataset(dask.array.from_array(moved, (7, 2, 3)), dims),
    ):
        out = svd(ds, 3, core_dims="frequency")
        for name in ("components", "maps", "singular_values"):
            np.testing.assert_allclose(out[name], right[name], atol=1e-11, err_msg=name)
    flat = svd(
        ps.make_dataset(values.reshape(6, 7, 5, 6), ("y", "x", "v", "u")), 3, core_dims=("v", "u")
    )
    assert flat["components"].dims == ("component", "v", "u")
    np.testing.assert_allclose(
        flat["components"].values.reshape(3, 30), right["components"], atol=1e-11
    )


# ---------------------------------------------------------------------- NMF


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nmf_is_that_of_scikit_learn(small_pieces, dtype):
    decomposition = pytest.importorskip("sklearn.decomposition")
    values = mixtures().astype(dtype)
    out = nmf(lazy(values), 3)
    model = decomposition.NMF(3, init="nndsvda", solver="cd", random_state=0)
    maps = model.fit_transform(as_matrix(values))
    assert out.attrs["n_iterations"] == model.n_iter_
    assert out.attrs["converged"]
    tolerance = 1e-9 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(out["components"], model.components_, atol=tolerance)
    np.testing.assert_allclose(out["maps"].values.reshape(-1, 3), maps, atol=tolerance)
    np.testing.assert_allclose(out["reconstruction_error"], model.reconstruction_err_, rtol=1e-6)
    assert (out["components"] >= 0).all()
    assert (out["maps"] >= 0).all()


def test_nmf_refuses_values_below_zero():
    values = mixtures()
    values[2, 3, 7] = -0.5
    with pytest.raises(ValueError, match=r"but y 2, x 3 holds -0\.5"):
        nmf(lazy(values), 2)


def test_nmf_says_if_it_has_not_converged():
    with pytest.warns(RuntimeWarning, match="allow more max_iterations"):
        out = nmf(lazy(mixtures()), 3, max_iterations=3)
    assert not out.attrs["converged"]


@pytest.mark.parametrize("unit", [1e9, 1e3, 1e-12, 1e-30, 2.54])
def test_units_do_not_change_what_nmf_finds(unit):
    values = mixtures()
    one, other = nmf(lazy(values), 3), nmf(lazy(values * unit), 3)
    assert one.attrs["converged"]
    assert other.attrs["converged"]
    whole = one["maps"].values @ one["components"].values
    again = other["maps"].values @ other["components"].values / unit
    rounding = 2e-2 if unit == 2.54 else 1e-9
    np.testing.assert_allclose(again, whole, atol=rounding * whole.max())
    error = float(other["reconstruction_error"]) / unit
    np.testing.assert_allclose(error, one["reconstruction_error"], rtol=max(rounding, 1e-6))
    if unit != 2.54:
        assert other.attrs["n_iterations"] == one.attrs["n_iterations"]


# ---------------------------------------------------------------------- k-means


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kmeans_is_that_of_scikit_learn(small_pieces, dtype):
    cluster = pytest.importorskip("sklearn.cluster")
    values = groups().astype(dtype)
    out = kmeans(lazy(values), 4)
    model = cluster.KMeans(4, random_state=0).fit(as_matrix(values))
    assert np.array_equal(out["labels"].values.ravel(), model.labels_)
    np.testing.assert_allclose(out["cluster_centers"], model.cluster_centers_, rtol=1e-6)
    np.testing.assert_allclose(out["inertia"], model.inertia_, rtol=1e-5)
    assert np.array_equal(out["cluster_sizes"], np.bincount(model.labels_))
    assert out["labels"].dims == ("y", "x")
    assert out["labels"].dtype.kind == "i"


@pytest.mark.parametrize("unit", [1e9, 1e-12])
def test_units_and_offsets_do_not_change_clusters_and_components(unit):
    pytest.importorskip("sklearn.cluster")
    values = groups()
    one = kmeans(lazy(values), 4)
    for other in (kmeans(lazy(values * unit), 4), kmeans(lazy((values + 1e6) * unit), 4)):
        assert np.array_equal(other["labels"], one["labels"])
        assert other.attrs["n_iterations"] == one.attrs["n_iterations"]
        np.testing.assert_allclose(other["inertia"] / unit**2, one["inertia"], rtol=1e-7)
    for method in ("exact", "randomized"):
        first = pca(lazy(values), 3, method=method)
        second = pca(lazy(values * unit), 3, method=method)
        np.testing.assert_allclose(second["components"], first["components"], atol=1e-10)
        np.testing.assert_allclose(
            second["explained_variance_ratio"], first["explained_variance_ratio"], rtol=1e-10
        )


def test_kmeans_from_a_sample_of_the_positions(small_pieces, monkeypatch):
    pytest.importorskip("sklearn.cluster")
    monkeypatch.setattr(clustering, "SAMPLE_BYTES", 60 * 20 * 8)
    values = groups((40, 30))
    out = kmeans(lazy(values), 4)
    matrix, labels = as_matrix(values), out["labels"].values.ravel()
    centers = out["cluster_centers"].values
    # a fixed point of Lloyd's algorithm over all positions
    distances = ((matrix[:, None] - centers) ** 2).sum(axis=-1)
    assert np.array_equal(labels, distances.argmin(axis=1))
    for label, center in enumerate(centers):
        np.testing.assert_allclose(center, matrix[labels == label].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(out["inertia"], distances.min(axis=1).sum(), rtol=1e-10)
    # the groups are far enough apart to be found: nothing left but the noise within them
    np.testing.assert_allclose(out["inertia"], matrix.size, rtol=0.05)


def test_kmeans_names_the_extra_that_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r'pip install "penstock\[ml\]"'):
        kmeans(lazy(groups()), 2)


# ---------------------------------------------------------------------- all of them

FUNCTIONS = {
    "svd": lambda ds, **kwargs: svd(ds, 3, **kwargs),
    "randomized": lambda ds, **kwargs: svd(ds, 3, method="randomized", center=True, **kwargs),
    "nmf": lambda ds, **kwargs: nmf(ds, 3, tolerance=1e-2, **kwargs),
    "kmeans": lambda ds, **kwargs: kmeans(ds, 3, **kwargs),
}


@pytest.fixture(params=FUNCTIONS)
def decompose(request):
    if request.param == "kmeans":
        pytest.importorskip("sklearn.cluster")
    return FUNCTIONS[request.param]


def test_any_number_of_workers_gives_the_same_bits(small_pieces, decompose):
    ds = lazy(mixtures())
    one = decompose(ds, workers=1)
    for workers in (2, 4):
        assert one.identical(decompose(ds, workers=workers))


def test_any_cut_gives_the_same(monkeypatch, decompose):
    ds = lazy(mixtures())
    whole = decompose(ds)
    for piece, task in ((400, 400), (1500, 10000), (20000, 20000)):
        monkeypatch.setattr(passes, "PIECE_BYTES", piece)
        monkeypatch.setattr(passes, "TASK_BYTES", task)
        cut = decompose(ds)
        for name in whole.data_vars:
            np.testing.assert_allclose(cut[name], whole[name], rtol=1e-9, atol=1e-9, err_msg=name)


def test_positions_that_are_not_finite(decompose):
    values = mixtures()
    broken = values.copy()
    broken[3, 4, 5] = np.nan
    broken[7, 1] = np.inf
    with pytest.raises(ValueError, match=r"y 3, x 4 are not all finite .* nan_policy='omit'"):
        decompose(lazy(broken))
    out = decompose(lazy(broken), nan_policy="omit")
    left = np.isfinite(broken).all(axis=-1)
    assert out.attrs["n_positions"] == left.sum() == 118
    right = decompose(ps.make_dataset(values[left], ("position", "frequency")))
    for name in right.data_vars:
        if name in ("maps", "labels"):
            there = out[name].values
            missing = there == -1 if name == "labels" else np.isnan(there).all(axis=-1)
            assert np.array_equal(missing, ~left)
            np.testing.assert_allclose(there[left], right[name], atol=1e-8)
        else:
            np.testing.assert_allclose(out[name], right[name], rtol=1e-8, atol=1e-9, err_msg=name)


def test_coordinates_units_and_what_was_done(decompose):
    ds = ps.make_dataset(
        mixtures(),
        DIMS,
        units="nm",
        coords={
            "x": ("x", np.arange(10.0), {"units": "um"}),
            "frequency": ("frequency", np.linspace(300, 350, 50), {"units": "kHz"}),
        },
        attrs={"source": "here"},
    )
    out = decompose(ds)
    assert out["frequency"].attrs["units"] == "kHz"
    assert out["x"].attrs["units"] == "um"
    assert out.attrs["source"] == "here"
    assert "3" in out.attrs["decomposition"]
    in_units = {"maps", "singular_values", "cluster_centers", "mean"} & set(out.data_vars)
    for name in in_units - ({"maps"} if "reconstruction_error" in out else set()):
        assert out[name].attrs["units"] == "nm"
    assert pca(ds, 2)["explained_variance"].attrs["units"] == "nm2"


def test_memory_stays_inside_the_budget(decompose, monkeypatch):
    monkeypatch.setattr(clustering, "SAMPLE_BYTES", 2 * MIB)
    virtual = virtual_dataset((128, 512, 256), DIMS, dtype="float64")
    ds = ps.make_dataset(lazy_variable(DIMS, _Above(virtual), virtual.signal.shape, "float64"))
    assert ds.signal.nbytes == 128 * MIB
    few = {"max_iterations": 2} if decompose in (FUNCTIONS["nmf"], FUNCTIONS["kmeans"]) else {}
    left = 56 * MIB
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        decompose(ds.isel(y=slice(0, 1), x=slice(0, 100)), **few)  # (imports)
        tracemalloc.start()
        try:
            decompose(ds, memory=resident() + 40 * MIB + left, workers=4, **few)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < left


class _Above:
    """Values of another dataset, raised above 0."""

    def __init__(self, ds: xr.Dataset):
        self.variable = ds.variables["signal"]

    def __call__(self, *indexers):
        block = self.variable[indexers].values
        block += 10
        return block


def test_what_does_not_fit_is_refused_before_anything_is_read():
    ds = virtual_dataset((100, 100, 20000), DIMS, readable=False)
    memory = resident() + 200 * MIB
    with pytest.raises(BudgetError, match="or use method='randomized'"):
        svd(ds, 3, method="exact", memory=memory)
    with pytest.raises(BudgetError, match="ask for fewer components"):
        nmf(ds, 3000, memory=memory)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda ds: svd(ds, 51), r"n_components=51 must be from 1 to 50: there are 120 positions"),
        (lambda ds: pca(ds, 0), "n_components=0 must be from 1"),
        (lambda ds: nmf(ds, 51), "n_components=51 must be"),
        (lambda ds: kmeans(ds, 121), "n_clusters=121 must be from 1 to 120"),
        (lambda ds: svd(ds.rename(x="component"), 2), "rename that of the data"),
        (lambda ds: svd(ds, 2, method="gram"), "method must be 'auto', 'exact' or 'randomized'"),
        (lambda ds: svd(ds, 2, nan_policy="drop"), "nan_policy must be"),
        (lambda ds: svd(ds, 2, power_iterations=-1), "must not be negative"),
        (lambda ds: svd(ds, 2, core_dims="energy"), "no dim 'energy'"),
        (lambda ds: nmf(ds, 2, max_iterations=0), "max_iterations must be at least 1"),
        (lambda ds: kmeans(ds, 2, n_initializations=0), "at least 1"),
        (lambda ds: nmf(ds * 1j, 2), "take their magnitude first"),
        (lambda ds: kmeans(ds * 1j, 2), "take their magnitude first"),
    ],
)
def test_wrong_input_gets_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        call(ps.make_dataset(mixtures(), DIMS))
    assert "\n" not in str(refused.value)


def test_a_number_of_components_is_whole():
    ds = ps.make_dataset(mixtures(), DIMS)
    for decompose in (svd, pca, nmf):
        with pytest.raises(TypeError, match=r"n_components=2.5 must be a whole number"):
            decompose(ds, 2.5)


def test_real_spectra(data: Path):
    path = data / "spm" / "BEPFM_32x32x102.npy"
    values = np.load(path).astype("float64")
    ds = ps.open_dataset(path, dims=DIMS, dtype="float64")
    left, sizes, right = np.linalg.svd(as_matrix(values), full_matrices=False)
    out = svd(ds, 5)
    np.testing.assert_allclose(out["singular_values"], sizes[:5], rtol=1e-12)
    np.testing.assert_allclose(
        out["maps"].values.reshape(-1, 5) @ out["components"].values,
        (left[:, :5] * sizes[:5]) @ right[:5],
        atol=1e-11,
    )
    randomized = svd(ds, 5, method="randomized", power_iterations=6)
    np.testing.assert_allclose(randomized["singular_values"], sizes[:5], rtol=1e-6)
    factors = nmf(ds, 3, tolerance=1e-3)
    product = factors["maps"].values @ factors["components"].values
    np.testing.assert_allclose(
        np.linalg.norm(values - product), factors["reconstruction_error"], rtol=1e-9
    )
