"""Tables of confounds, fMRIPrep's files, and confounds from voxels of high variance."""

import numpy as np
import pandas as pd
import pytest

import penstock as ps
from penstock.fmri.cleaning.confounds import find_confounds, load_confounds_table
from penstock.fmri.cleaning.high_variance import high_variance_confounds, high_variance_of_blocks

VALUES = np.array([[0.5, -1.0, 3e-7], [1.5, 2.0, np.nan], [2.5, 0.0, 1e3], [0.0, 1.0, 2.0]])
NAMES = ("trans_x", "rot_x", "dvars")


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize(
    ("suffix", "separator"), [(".tsv", "\t"), (".csv", ","), (".csv", ";"), (".txt", "  ")]
)
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_tables_of_any_kind_are_read(tmp_path, header, suffix, separator, bom):
    rows = [separator.join(NAMES)] if header else []
    for row in VALUES:
        rows.append(
            separator.join("n/a" if np.isnan(value) else repr(float(value)) for value in row)
        )
    path = tmp_path / f"table{suffix}"
    path.write_text(bom + "# made by hand\n" + "\n".join(rows) + "\n", encoding="utf-8")
    for source in (path, str(path)):
        values, names = load_confounds_table(source, n_times=4)
        assert np.array_equal(values, VALUES, equal_nan=True)
        assert names == (NAMES if header else ("0", "1", "2"))
        assert values.dtype == np.float64


def test_the_first_line_of_a_table_without_names_counts(tmp_path):
    path = tmp_path / "one.1D"
    path.write_text("1\n2\n3\n")
    assert load_confounds_table(path)[0].tolist() == [[1.0], [2.0], [3.0]]
    path.write_text("n/a\t1.0\n2.0\t3.0\n")
    values, _ = load_confounds_table(path)
    assert np.array_equal(values, [[np.nan, 1.0], [2.0, 3.0]], equal_nan=True)
    path.write_text("\n\n  1e-3 \t 2 \n  3   4\n\n")
    assert load_confounds_table(path)[0].tolist() == [[0.001, 2.0], [3.0, 4.0]]


def test_motion_parameters_of_fsl_are_read(data):
    path = data / "fmri" / "haxby_slice" / "bold_mc.par"
    values, names = load_confounds_table(path)
    expected = np.array([line.split() for line in path.read_text().splitlines()], dtype=float)
    assert np.array_equal(values, expected)
    assert names == tuple("012345")


def test_arrays_tables_and_lists_of_them_are_put_side_by_side(tmp_path):
    frame = pd.DataFrame(VALUES, columns=NAMES)
    path = tmp_path / "table.tsv"
    frame.to_csv(path, sep="\t", index=False)
    whole = np.column_stack([VALUES, VALUES, VALUES[:, 0], VALUES[:, 1]])
    values, names = load_confounds_table([frame, str(path), VALUES[:, 0], frame["rot_x"]])
    assert np.array_equal(values, whole, equal_nan=True)
    assert names == (*NAMES, *NAMES, "0", "rot_x")
    nested = VALUES[:, :2].tolist()
    assert np.array_equal(load_confounds_table(nested)[0], VALUES[:, :2])
    assert np.array_equal(load_confounds_table(tuple(map(tuple, nested)))[0], VALUES[:, :2])
    assert np.array_equal(load_confounds_table([1, 2, 3])[0], [[1.0], [2.0], [3.0]])
    assert np.array_equal(load_confounds_table(np.array([True, False]))[0], [[1.0], [0.0]])


def test_columns_are_chosen_by_name_and_pattern():
    names = ["csf", "rot_x", "trans_y", "trans_x", "a_comp_cor_04", "a_comp_cor_05", "label"]
    frame = pd.DataFrame([[1, 2, 3, 4, 5, 6, "text"]], columns=names)
    for columns, expected in (
        (("trans_*", "csf"), ("trans_y", "trans_x", "csf")),
        ("a_comp_cor_0[0-4]", ("a_comp_cor_04",)),
        (("trans_x", "trans_*"), ("trans_x", "trans_y")),
    ):
        values, found = load_confounds_table(frame, columns)
        assert found == expected
        assert values.tolist() == [[float(names.index(name) + 1) for name in expected]]
    with pytest.raises(ValueError, match="no column 'trans_z': did you mean 'trans_"):
        load_confounds_table(frame, "trans_z")
    with pytest.raises(ValueError, match="no column 'motion': it has csf, rot_x"):
        load_confounds_table(frame, "motion")
    with pytest.raises(ValueError, match="column 'label' is not made of numbers"):
        load_confounds_table(frame)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"cannot be read as a table of confounds \(it is empty\)"),
        (b"# only\n# remarks\n", "it is empty"),
        (b"\x93NUMPY\x01\x00v\x00{'descr'", "cannot be read as a table of confounds"),
        (b"a\tb\n1\t2\n3\t4\t5\t6\n", "cannot be read as a table of confounds"),
        (b"a\tb\n1\t2\n3\tx\n", "column 'b' is not made of numbers"),
    ],
)
def test_unusable_files_are_named(tmp_path, content, sentence):
    path = tmp_path / "table.tsv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as error:
        load_confounds_table(path)
    assert str(path) in str(error.value)


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot open the confounds .*nowhere.tsv"):
        load_confounds_table(tmp_path / "nowhere.tsv")
    with pytest.raises(ValueError, match=r"4 rows, the series 5 time points.*dummy scans"):
        load_confounds_table(VALUES, n_times=5)
    with pytest.raises(ValueError, match="must be as long"):
        load_confounds_table([VALUES, VALUES[1:]])
    with pytest.raises(TypeError, match="confounds must be numbers"):
        load_confounds_table({"csf": [1, 2]})
    with pytest.raises(ValueError, match=r"got the shape \(2, 2, 2\)"):
        load_confounds_table(np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="has no columns"):
        load_confounds_table(np.zeros((4, 0)))


@pytest.mark.parametrize(
    ("image", "table"),
    [
        (
            "sub-01_ses-2_task-rest_run-1_space-MNI152NLin2009cAsym_res-2_desc-preproc_bold.nii.gz",
            "sub-01_ses-2_task-rest_run-1_desc-confounds_timeseries.tsv",
        ),
        (
            "sub-01_task-rest_desc-preproc_bold.nii",
            "sub-01_task-rest_desc-confounds_regressors.tsv",
        ),
        ("sub-01_task-rest_bold.nii.gz", "sub-01_task-rest_desc-confounds_timeseries.tsv"),
        (
            "sub-01_task-rest_hemi-L_space-fsaverage5_bold.func.gii",
            "sub-01_task-rest_hemi-L_desc-confounds_timeseries.tsv",
        ),
    ],
)
def test_the_table_of_fmriprep_has_the_entities_of_the_image(tmp_path, image, table):
    other = tmp_path / "sub-01_task-other_desc-confounds_timeseries.tsv"
    other.write_text("csf\n1\n")
    with pytest.raises(FileNotFoundError, match="there are no confounds beside"):
        find_confounds(tmp_path / image)
    (tmp_path / table).write_text("csf\n1\n")
    assert find_confounds(tmp_path / image) == str(tmp_path / table)
    assert find_confounds(str(tmp_path / image)) == str(tmp_path / table)


# ---------------------------------------------------------------------- high variance


def volumes(n_times=60, shape=(7, 8, 9), seed=0):
    """Series of different variance about a large mean, with drifts, (x, y, z, time)."""
    rng = np.random.default_rng(seed)
    sources = rng.standard_normal((n_times, 6)) * [9, 7, 5, 4, 3, 2]
    weights = rng.standard_normal((6, *shape)) * rng.random(shape) ** 4
    noise = rng.standard_normal((n_times, *shape)) * rng.random(shape)
    drift = np.linspace(0, 40, n_times)[:, None, None, None] * rng.random(shape)
    values = np.tensordot(sources, weights, 1) + noise + drift + 1000 * rng.random(shape)
    return np.asfortranarray(np.moveaxis(values, 0, -1))


def as_dataset(values):
    coords = {"affine": (("affine_row", "affine_column"), np.diag([3.0, 3.0, 3.0, 1.0]))}
    return ps.make_dataset(values, ("x", "y", "z", "time"), sampling_frequency=0.5, coords=coords)


def same_up_to_sign(a, b):
    assert a.shape == b.shape
    return np.abs(a * np.sign((a * b).sum(axis=0)) - b).max()


@pytest.mark.parametrize("detrend", [True, False])
@pytest.mark.parametrize(("n_confounds", "percentile"), [(5, 2.0), (3, 20.0), (1, 100.0)])
def test_time_courses_are_those_of_nilearn(detrend, n_confounds, percentile):
    signal = pytest.importorskip("nilearn.signal")
    values = volumes()
    series = values.reshape(-1, 60).T
    expected = signal.high_variance_confounds(series, n_confounds, percentile, detrend)
    options = (n_confounds, percentile, detrend)
    for source in (series, as_dataset(values), as_dataset(values).chunk(time=7)):
        assert same_up_to_sign(high_variance_confounds(source, *options), expected) < 1e-8


def test_a_mask_decides_which_voxels_count(tmp_path):
    image = pytest.importorskip("nilearn.image")
    nibabel = pytest.importorskip("nibabel")
    values, affine = volumes(), np.diag([3.0, 3.0, 3.0, 1.0])
    inside = np.zeros(values.shape[:3], "uint8")
    inside[1:5, 2:, 3:] = 1
    bold = nibabel.Nifti1Image(values, affine)
    mask = nibabel.Nifti1Image(inside, affine)
    expected = image.high_variance_confounds(bold, n_confounds=3, percentile=5.0, mask_img=mask)
    nibabel.save(bold, tmp_path / "bold.nii.gz")
    for source in (bold, tmp_path / "bold.nii.gz", as_dataset(values)):
        found = high_variance_confounds(source, 3, 5.0, mask_img=mask)
        assert same_up_to_sign(found, expected) < 1e-8
    shifted = nibabel.Nifti1Image(inside, affine + np.eye(4)[:, [3, 3, 3, 3]])
    with pytest.raises(ValueError, match="does not lie on the grid"):
        high_variance_confounds(bold, mask_img=shifted)


def test_real_volumes_give_what_nilearn_gives(data):
    image = pytest.importorskip("nilearn.image")
    nibabel = pytest.importorskip("nibabel")
    path = data / "fmri" / "haxby_slice" / "bold.nii.gz"
    loaded = nibabel.load(path)
    wide = nibabel.Nifti1Image(np.asarray(loaded.dataobj, "f8"), loaded.affine)
    expected = image.high_variance_confounds(wide)
    assert same_up_to_sign(high_variance_confounds(path), expected) < 1e-8


def test_blocks_and_memory_do_not_matter():
    values = volumes()
    series = np.ascontiguousarray(values.reshape(-1, 60).T)
    expected = high_variance_confounds(series)
    assert np.allclose(expected.T @ expected, np.eye(5))
    assert (np.take_along_axis(expected, np.abs(expected).argmax(axis=0)[None], axis=0) > 0).all()
    for length, memory in ((1, 1), (7, 1000), (60, "1 MiB")):
        passes = []

        def blocks(length=length, passes=passes):
            passes.append(length)
            return (series[at : at + length] for at in range(0, 60, length))

        found = high_variance_of_blocks(blocks, memory=memory)
        assert np.abs(found - expected).max() < 1e-10
        n_chosen = 11  # 2 % of 504
        at_once = max(1, {1: 1, 1000: 1000, "1 MiB": 1 << 20}[memory] // (60 * 8))
        assert len(passes) == 1 + -(-n_chosen // at_once)


def test_voxels_that_are_not_finite_are_left_out():
    values = volumes()
    spoilt = values.copy()
    spoilt[0, 0, 0, 5], spoilt[3, 3, 3, 0], spoilt[4, 4, 4, 59] = np.nan, np.inf, -np.inf
    kept = np.isfinite(spoilt).all(axis=-1)
    expected = high_variance_confounds(values[kept].T)
    assert same_up_to_sign(high_variance_confounds(as_dataset(spoilt)), expected) < 1e-8


NOISE = np.random.default_rng(0).random((20, 500))


@pytest.mark.parametrize(
    ("source", "options", "sentence"),
    [
        (np.ones((20, 50)), {}, "0 of 50 voxels vary most .* too few for 5 confounds"),
        (NOISE[:, :50], {}, "1 of 50 voxels vary most"),
        (np.full((20, 50), np.nan), {}, "no voxel has finite values only"),
        (NOISE, {"n_confounds": 0}, "n_confounds=0 must lie between 1 and 20"),
        (NOISE, {"n_confounds": 21}, "n_confounds=21 must lie between"),
        (NOISE, {"percentile": 101.0}, "percentile=101.0 must lie between"),
        (NOISE, {"mask_img": "mask.nii"}, "mask_img goes with images"),
        (NOISE.reshape(20, 20, 25), {}, r"got the shape \(20, 20, 25\)"),
        (NOISE[:0], {}, "there are no volumes"),
        (as_dataset(volumes()).isel(time=0), {}, "has no dim 'time'"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(source, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        high_variance_confounds(source, **options)


@pytest.mark.parametrize(("separator", "suffix"), [(",", "csv"), ("\t", "tsv")])
def test_tables_that_pandas_saved_with_their_index(separator, suffix, tmp_path):
    values = np.random.default_rng(0).normal(size=(12, 3))
    for columns in (None, ["csf", "white_matter", "trans_x"]):
        path = tmp_path / f"confounds.{suffix}"
        pd.DataFrame(values, columns=columns).to_csv(path, sep=separator)
        found, names = load_confounds_table(path, n_times=12)
        np.testing.assert_allclose(found, values)
        assert names == tuple(columns or "012")
