"""Sets of parameters of every processor, and one block of each measured in this process.

``python declared_memory_case.py GROUP`` prints what was declared and what was taken, as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import penstock as ps
from penstock.testing import memory_use, virtual_dataset

ROTATED = [[2.8, 1.0, 0, 0], [-1.0, 2.8, 0, 0], [0, 0.3, 3, 0], [0, 0, 0, 1]]
FINER, COARSER = np.diag([2.0, 2, 2, 1]).tolist(), np.diag([4.0, 4, 4, 1]).tolist()
LABELS, MASK, MAPS = "{images}/atlas.nii", "{images}/mask.nii", "{images}/maps.nii"
CLEAN = {"detrend": True, "standardize": "zscore_sample"}
AAS = [{"TriggerDetector": "^1$"}]


def _mne(name: str, /, **kwargs: Any) -> list[Any]:
    return [{"MNE": {"method": name, "kwargs": kwargs}}]


EEG: dict[str, tuple[str, list[Any]]] = {
    "sort": ("rows", [{"Apply": {"function": "numpy:sort", "scratch": 1.0}}]),
    "detrend": ("rows", [{"Apply": {"function": "scipy.signal:detrend"}}]),
    "detrend of one row": ("row", [{"Apply": {"function": "scipy.signal:detrend"}}]),
    "absolute values": ("rows", [{"Apply": {"function": "numpy:abs", "core_dims": []}}]),
    "roots": ("rows", [{"Apply": {"function": "numpy:sqrt"}}]),
    "signs as numbers": (
        "rows", [{"Apply": {"function": "numpy:signbit", "dtype": "float64", "core_dims": []}}],
    ),
    "widened": (
        "rows", [{"Apply": {"function": "numpy:negative", "dtype": "float64", "core_dims": []}}],
    ),
    "crop": ("rows", [{"Crop": [1.0, 100.0]}]),
    "pick": ("rows", [{"PickChannels": [["C1", "C5"]]}]),
    "drop": ("rows", [{"DropChannels": [["C1", "C5"]]}]),
    "high-pass": ("rows", [{"HighPassFilter": 1.0}]),
    "high-pass, a long filter": ("rows", [{"HighPassFilter": 0.05}]),
    "high-pass, a very long filter": ("row", [{"HighPassFilter": 0.01}]),
    "high-pass of many rows": ("many rows", [{"HighPassFilter": 1.0}]),
    "high-pass in float64": ("float64", [{"HighPassFilter": 1.0}]),
    "high-pass of whole numbers": ("int16", [{"HighPassFilter": 1.0}]),
    "high-pass, minimum phase": ("rows", [{"HighPassFilter": {"freq": 1.0, "phase": "minimum"}}]),
    "low-pass": ("rows", [{"LowPassFilter": 40.0}]),
    "band-pass": ("row", [{"BandPassFilter": [1.0, 40.0]}]),
    "band-stop": ("rows", [{"Filter": [150.0, 40.0]}]),
    "notches": ("rows", [{"NotchFilter": {"freqs": [50.0, 100.0, 150.0, 200.0, 250.0]}}]),
    "many notches": ("row", [{"NotchFilter": {"freqs": list(np.arange(10.0, 500.0, 10.0))}}]),
    "recursive high-pass": ("rows", [{"HighPassFilter": {"freq": 0.5, "method": "iir"}}]),
    "recursive of one row": ("row", [{"HighPassFilter": {"freq": 0.5, "method": "iir"}}]),
    "recursive in float64": ("float64", [{"HighPassFilter": {"freq": 0.5, "method": "iir"}}]),
    "recursive of many rows": ("many rows", [{"LowPassFilter": {"freq": 40.0, "method": "iir"}}]),
    "recursive band-pass": (
        "rows", [{"BandPassFilter": {"l_freq": 1.0, "h_freq": 40.0, "method": "iir"}}]
    ),
    "recursive notch": ("rows", [{"NotchFilter": {"freqs": 50.0, "method": "iir"}}]),
    "recursive, forward": (
        "rows", [{"HighPassFilter": {"freq": 0.5, "method": "iir", "phase": "forward"}}]
    ),
    "resample by 4": ("rows", [{"Resample": 250.0}]),
    "resample to 256": ("rows", [{"Resample": 256.0}]),
    "resample to 333.3": ("rows", [{"Resample": 333.3}]),
    "resample to 999": ("rows", [{"Resample": 999.0}]),
    "resample in steps": ("row", [{"Resample": 601.37}]),
    "resample upwards in steps": ("rows", [{"Resample": 1733.17}]),
    "resample far down": ("row", [{"Resample": 1.7}]),
    "resample in float64": ("float64", [{"Resample": 256.0}]),
    "FFT resampling": ("rows", [{"Resample": {"sfreq": 256.0, "method": "fft"}}]),
    "FFT resampling of one row": ("row", [{"Resample": {"sfreq": 256.0, "method": "fft"}}]),
    "FFT resampling of a row above a power of two": (
        "worst row", [{"Resample": {"sfreq": 500.0, "method": "fft"}}]
    ),
    "FFT resampling upwards": ("row", [{"Resample": {"sfreq": 1562.5, "method": "fft"}}]),
    "FFT resampling three times up": ("rows", [{"Resample": {"sfreq": 3000.0, "method": "fft"}}]),
    "FFT resampling upwards, the worst": (
        "worst row", [{"Resample": {"sfreq": 3000.0, "method": "fft"}}]
    ),
    "FFT resampling to a prime": ("worst row", [{"Resample": {"sfreq": 997.1, "method": "fft"}}]),
    "FFT upsampling": ("worst row", [{"UpSample": {"factor": 5, "method": "fft"}}]),
    "FFT upsampling in float64": ("float64", [{"UpSample": {"factor": 2, "method": "fft"}}]),
    "FFT downsampling": ("worst row", [{"DownSample": {"factor": 5, "method": "fft"}}]),
    "upsample": ("rows", [{"UpSample": 4}]),
    "upsample by 10": ("row", [{"UpSample": 10}]),
    "downsample": ("rows", [{"DownSample": 10}]),
    "downsample by 7": ("many rows", [{"DownSample": 7}]),
    "average reference": ("rows", ["Rereference"]),
    "average reference of many rows": ("many rows", ["Rereference"]),
    "average reference of two rows": ("two rows", ["Rereference"]),
    "average reference in float64": ("float64", ["Rereference"]),
    "reference channel": ("rows", [{"Rereference": {"channels": "C3"}}]),
    "z-scores": ("rows", ["Scale"]),
    "z-scores of one row": ("row", ["Scale"]),
    "z-scores of many rows": ("many rows", ["Scale"]),
    "z-scores in float64": ("float64", ["Scale"]),
    "centred": ("rows", [{"Scale": {"with_std": False}}]),
    "artifact correction": ("scanner", [*AAS, "AASCorrection"]),
    "artifact correction of one channel": ("scanner row", [*AAS, "AASCorrection"]),
    "artifact correction, whole samples": (
        "scanner", [*AAS, {"AASCorrection": {"alignment": "integer"}}]
    ),
    "artifact correction, not aligned": (
        "scanner row", [*AAS, {"AASCorrection": {"alignment": "none"}}]
    ),
    "artifact correction, blocks": (
        "scanner row", [*AAS, {"AASCorrection": {"template": "block", "window_size": 10}}]
    ),
    "artifact correction, a wide window": (
        "scanner row", [*AAS, {"AASCorrection": {"window_size": 200}}]
    ),
    "artifact correction in float64": ("scanner float64", [*AAS, "AASCorrection"]),
}  # fmt: skip

MNE: dict[str, tuple[str, list[Any]]] = {
    "filter": ("rows", _mne("filter", l_freq=1.0, h_freq=40.0)),
    "filter one row": ("row", _mne("filter", l_freq=1.0, h_freq=40.0)),
    "filter one worst row": ("worst row", _mne("filter", l_freq=0.01, h_freq=40.0)),
    "filter in float64": ("float64", _mne("filter", l_freq=1.0, h_freq=40.0)),
    "filter, minimum phase": ("row", _mne("filter", l_freq=1.0, h_freq=40.0, phase="minimum")),
    "recursive": ("rows", _mne("filter", l_freq=1.0, h_freq=40.0, method="iir")),
    "recursive, one row": ("row", _mne("filter", l_freq=1.0, h_freq=40.0, method="iir")),
    "recursive, forward": (
        "row", _mne("filter", l_freq=1.0, h_freq=40.0, method="iir", phase="forward")
    ),
    "some rows": ("rows", _mne("filter", l_freq=1.0, h_freq=40.0, picks=["C1", "C2"])),
    "notch": ("rows", _mne("notch_filter", freqs=[50.0, 100.0])),
    "notch, one row": ("row", _mne("notch_filter", freqs=[50.0, 100.0])),
    "notch, recursive": ("row", _mne("notch_filter", freqs=[50.0], method="iir")),
    "notch, many": ("row", _mne("notch_filter", freqs=list(np.arange(20.0, 480.0, 20.0)))),
    "notch, fitted": (
        "rows", _mne("notch_filter", freqs=[50.0], method="spectrum_fit", mt_bandwidth=2.0)
    ),
    "notch, fitted, one row": (
        "row",
        _mne("notch_filter", freqs=[50.0], method="spectrum_fit", filter_length="60s"),
    ),
    "notch, found": ("row", _mne("notch_filter", freqs=None, method="spectrum_fit")),
    "hilbert": ("rows", _mne("apply_hilbert", envelope=True)),
    "hilbert of one row": ("row", _mne("apply_hilbert", envelope=True)),
    "hilbert of one worst row": ("worst row", _mne("apply_hilbert", envelope=True)),
    "hilbert not padded": ("prime row", _mne("apply_hilbert", envelope=True, n_fft=None)),
    "hilbert in float64": ("float64", _mne("apply_hilbert", envelope=True)),
    "savgol": ("rows", _mne("savgol_filter", h_freq=30.0)),
    "savgol of one row": ("row", _mne("savgol_filter", h_freq=30.0)),
    "savgol, many rows": ("many rows", _mne("savgol_filter", h_freq=30.0)),
    "resample": ("rows", _mne("resample", sfreq=250.0)),
    "resample one row": ("row", _mne("resample", sfreq=250.0)),
    "resample one worst row": ("worst row", _mne("resample", sfreq=256.0)),
    "resample upwards": ("rows", _mne("resample", sfreq=2500.0)),
    "resample one upwards": ("worst row", _mne("resample", sfreq=3000.0)),
    "resample, polyphase": ("rows", _mne("resample", sfreq=250.0, method="polyphase")),
    "resample up, polyphase": ("row", _mne("resample", sfreq=3000.0, method="polyphase")),
    "resample, odd polyphase": ("row", _mne("resample", sfreq=256.0, method="polyphase")),
    "resample, not padded": ("prime row", _mne("resample", sfreq=250.0, npad=0)),
    "reference": ("rows", _mne("set_eeg_reference")),
    "reference of many": ("many rows", _mne("set_eeg_reference")),
    "reference channel": ("rows", _mne("set_eeg_reference", ref_channels=["C1"])),
    "interpolate": ("placed", _mne("interpolate_bads")),
    "projections": ("projected", _mne("apply_proj")),
    "rescale": ("rows", _mne("rescale", scalings=2.0)),
    "added reference": ("rows", _mne("add_reference_channels", ref_channels=["R"])),
    "types": ("rows", _mne("set_channel_types", mapping={"C1": "misc"})),
    "rename": ("rows", _mne("rename_channels", mapping={"C1": "X"})),
    "pick": ("rows", _mne("pick", picks=["C1", "C5"])),
    "crop": ("rows", _mne("crop", tmin=1.0, tmax=100.0)),
}  # fmt: skip

SPECTRA: dict[str, tuple[str, list[Any]]] = {
    "peaks": ("grid", [{"FindPeaksCWT": {"widths": [4.0, 8.0, 16.0]}}]),
    "peaks, many widths": (
        "small grid", [{"FindPeaksCWT": {"widths": [float(w) for w in range(10, 60)]}}]
    ),
    "few peaks": ("small grid", [{"FindPeaksCWT": {"widths": [4.0, 8.0], "max_peaks": 100}}]),
    "peaks of longer spectra": ("longer", [{"FindPeaksCWT": {"widths": [4.0, 8.0, 64.0]}}]),
    "peaks of whole numbers": ("small int16", [{"FindPeaksCWT": {"widths": [4.0, 8.0]}}]),
    "peaks, bridged": (
        "small grid", [{"FindPeaksCWT": {"widths": [4.0, 8.0], "nan_policy": "omit"}}]
    ),
    "peaks of a wavelet": (
        "small grid", [{"FindPeaksCWT": {"widths": [4.0, 8.0], "wavelet": "gaussian"}}]
    ),
    **{
        f"fit {model}": ("small grid", [{"Fit": {"model": model, "max_nfev": 8}}])
        for model in ("gaussian", "lorentzian", "voigt", "exponential_decay")
    },
    "fit voigt to long": ("long", [{"Fit": {"model": "voigt", "max_nfev": 4}}]),
    "fit polynomial": ("small grid", [{"Fit": {"model": {"polynomial": {"degree": 5}}}}]),
    "fit polynomial of 12": ("long", [{"Fit": {"model": {"polynomial": {"degree": 12}}}}]),
    "fit oscillator": ("small complex grid", [{"Fit": {"model": "simple_harmonic_oscillator"}}]),
    "fit oscillator to long": (
        "complex long", [{"Fit": {"model": "simple_harmonic_oscillator", "max_nfev": 4}}]
    ),
    "fit long": ("long", [{"Fit": {"model": "gaussian"}}]),
    "fit in float64": ("small float64 grid", [{"Fit": {"model": "gaussian"}}]),
    "fit with a prior": ("small grid", [{"Fit": {"model": "gaussian", "prior": "neighbour"}}]),
    "fit with clusters": ("small grid", [{"Fit": {"model": "gaussian", "prior": "kmeans"}}]),
    "fit with sigma": ("small grid", [{"Fit": {"model": "gaussian", "sigma": 0.5}}]),
    "fit by scipy": ("tiny grid", [{"Fit": {"model": "gaussian", "method": "scipy"}}]),
    "median": ("small grid", [{"PerPosition": {"function": "numpy:median"}}]),
    "sorted": ("small grid", [{"PerPosition": {"function": "numpy:sort"}}]),
    "spectrum of spectra": ("small grid", [{"PerPosition": {"function": "scipy.fft:fft"}}]),
    "argmax of long": ("long", [{"PerPosition": {"function": "numpy:argmax"}}]),
    "square": ("grid", [{"Apply": {"function": "numpy:square", "core_dims": []}}]),
}  # fmt: skip

SMOOTHED = [{"SmoothVolumes": 6.0}]
FMRI: dict[str, tuple[str, list[Any]]] = {
    "smooth": ("volumes", SMOOTHED),
    "smooth one": ("one volume", SMOOTHED),
    "smooth widely": ("volumes", [{"SmoothVolumes": 30.0}]),
    "smooth one axis": ("volumes", [{"SmoothVolumes": [[0.0, 6.0, 0.0]]}]),
    "smooth in float64": ("float64 volumes", SMOOTHED),
    "smooth whole numbers": ("int16 volumes", SMOOTHED),
    "resample": ("volumes", [{"ResampleVolumes": {"target_affine": COARSER}}]),
    "resample one": ("one volume", [{"ResampleVolumes": {"target_affine": COARSER}}]),
    "resample finer": ("volumes", [{"ResampleVolumes": {"target_affine": FINER}}]),
    "resample finer, one": ("one volume", [{"ResampleVolumes": {"target_affine": FINER}}]),
    "resample, turned": ("volumes", [{"ResampleVolumes": {"target_affine": ROTATED}}]),
    "resample, turned, one": ("one volume", [{"ResampleVolumes": {"target_affine": ROTATED}}]),
    "resample, nearest": (
        "volumes", [{"ResampleVolumes": {"target_affine": ROTATED, "interpolation": "nearest"}}]
    ),
    "resample, linear": (
        "volumes", [{"ResampleVolumes": {"target_affine": ROTATED, "interpolation": "linear"}}]
    ),
    "resample, linear, one": (
        "one volume", [{"ResampleVolumes": {"target_affine": FINER, "interpolation": "linear"}}]
    ),
    "resample whole numbers": ("int16 volumes", [{"ResampleVolumes": {"target_affine": COARSER}}]),
    **{
        f"labels, {strategy}": (
            "volumes", [{"ExtractLabels": {"labels_img": LABELS, "strategy": strategy}}]
        )
        for strategy in (
            "mean", "median", "sum", "minimum", "maximum", "standard_deviation", "variance"
        )
    },
    "labels, median of one": (
        "one volume", [{"ExtractLabels": {"labels_img": LABELS, "strategy": "median"}}]
    ),
    "labels, variance of one": (
        "one volume", [{"ExtractLabels": {"labels_img": LABELS, "strategy": "variance"}}]
    ),
    "labels in a mask": ("volumes", [{"ExtractLabels": {"labels_img": LABELS, "mask_img": MASK}}]),
    "labels, propagated": (
        "volumes", [{"ExtractLabels": {"labels_img": LABELS, "nan_policy": "propagate"}}]
    ),
    "labels, zeros": (
        "gaps", [{"ExtractLabels": {"labels_img": LABELS, "nan_policy": "zero"}}]
    ),
    "labels with gaps": ("gaps", [{"ExtractLabels": {"labels_img": LABELS}}]),
    "median with gaps": (
        "gaps", [{"ExtractLabels": {"labels_img": LABELS, "strategy": "median"}}]
    ),
    "labels in float64": ("float64 volumes", [{"ExtractLabels": {"labels_img": LABELS}}]),
    "labels of whole numbers": ("int16 volumes", [{"ExtractLabels": {"labels_img": LABELS}}]),
    "maps": ("volumes", [{"ExtractMaps": {"maps_img": MAPS}}]),
    "maps of one": ("one volume", [{"ExtractMaps": {"maps_img": MAPS}}]),
    "maps with gaps": ("gaps", [{"ExtractMaps": {"maps_img": MAPS}}]),
    "maps, zeros": ("gaps", [{"ExtractMaps": {"maps_img": MAPS, "nan_policy": "zero"}}]),
    "maps of whole numbers": ("int16 volumes", [{"ExtractMaps": {"maps_img": MAPS}}]),
    "maps in float64": ("float64 volumes", [{"ExtractMaps": {"maps_img": MAPS}}]),
    "spheres": (
        "volumes", [{"ExtractSpheres": {"seeds": [[60, 60, 60], [90, 90, 90]], "radius": 18.0}}]
    ),
    "spheres with gaps": (
        "gaps", [{"ExtractSpheres": {"seeds": [[60, 60, 60], [90, 90, 90]], "radius": 18.0}}]
    ),
    "voxels": ("volumes", [{"ExtractVoxels": MASK}]),
    "voxels, zeros": ("gaps", [{"ExtractVoxels": {"mask_img": MASK, "nan_policy": "zero"}}]),
    "voxels of whole numbers": ("int16 volumes", [{"ExtractVoxels": MASK}]),
    "voxels in float64": ("float64 volumes", [{"ExtractVoxels": MASK}]),
    "together": (
        "volumes",
        [{"ExtractTogether": [[
            [{"SmoothVolumes": 6.0}, {"ExtractLabels": LABELS}],
            [{"SmoothVolumes": 6.0}, {"ExtractMaps": MAPS}],
            {"ExtractSpheres": {"seeds": [[60, 60, 60]], "radius": 20.0}},
            {"ExtractVoxels": MASK},
        ]]}],
    ),
    "together, one volume": (
        "one volume",
        [{"ExtractTogether": [[
            {"ExtractLabels": {"labels_img": LABELS, "strategy": "median"}},
            {"ExtractLabels": LABELS}, {"ExtractMaps": MAPS},
        ]]}],
    ),
    "clean": (
        "series", [{"CleanSignals": {**CLEAN, "low_pass": 0.1, "high_pass": 0.01, "t_r": 2.0}}]
    ),
    "clean, cosines": (
        "series", [{"CleanSignals": {**CLEAN, "filter": "cosine", "high_pass": 0.01, "t_r": 2.0}}]
    ),
    "clean, not filtered": (
        "series", [{"CleanSignals": {"detrend": False, "standardize": "psc", "filter": None}}]
    ),
    "clean, demeaned": ("series", [{"CleanSignals": {"standardize": True}}]),
    "clean in float64": ("float64 series", [{"CleanSignals": {**CLEAN, "high_pass": 0.01}}]),
    "clean with confounds": (
        "series", [{"CleanSignals": {**CLEAN, "confounds": "{images}/confounds.tsv"}}]
    ),
    "clean, censored": (
        "series",
        [{"CleanSignals": {**CLEAN, "low_pass": 0.1, "sample_mask": list(range(10, 390))}}],
    ),
    "clean one": ("one series", [{"CleanSignals": {**CLEAN, "low_pass": 0.1}}]),
    "clean long": ("long series", [{"CleanSignals": {**CLEAN, "low_pass": 0.1}}]),
}  # fmt: skip

GROUPS = {"eeg": EEG, "mne": MNE, "spectra": SPECTRA, "fmri": FMRI}


def dataset(kind: str) -> xr.Dataset:
    """Data of a kind: about 8 MiB."""
    n = 2 << 20
    dtype = next((name for name in ("float64", "int16") if name in kind), "float32")
    if "scanner" in kind:
        from penstock.eeg import simulate

        rows = 1 if "row" in kind else 4
        return simulate.recording(
            n_channels=rows, duration=n / rows / 5000, sampling_frequency=5000.0, fmri=True
        ).astype(dtype)
    if "volume" in kind or kind == "gaps":
        shape = (48, 56, 44, 1 if "one" in kind else 18)
        ds = virtual_dataset(shape, ("x", "y", "z", "time"), sampling_frequency=0.5, dtype=dtype)
        if kind == "gaps":
            ds = ds.assign(signal=ds.signal.copy(data=_gaps(ds.signal.values)))
        return ds.assign_coords(
            affine=(("affine_row", "affine_column"), np.diag([3.0, 3.0, 3.0, 1.0]))
        )
    if "series" in kind:
        shape = (1, 1 << 20) if "one" in kind else (n // 400, 400)
        shape = (64, n // 64) if "long" in kind else shape
        return virtual_dataset(shape, ("region", "time"), sampling_frequency=0.5, dtype=dtype)
    if "grid" in kind or "long" in kind or "small" in kind:
        points = {"longer": 1 << 12}.get(kind, 1 << 18 if "long" in kind else 256)
        total = {"small": n // 8, "longer": n // 8, "tiny": n // 64}.get(kind.split()[0], n)
        dtype = "complex64" if "complex" in kind else dtype
        shape = (4, max(1, total // points // 4), points)
        ds = virtual_dataset(shape, ("y", "x", "frequency"), sampling_frequency=None, dtype=dtype)
        return ds.assign_coords(frequency=np.linspace(1, 2, points))
    rows = {"row": 1, "two": 2, "many": 128, "placed": 32, "worst": 1, "prime": 1}.get(
        kind.split()[0], 8
    )
    length = {"worst": (1 << 21) + 7, "prime": 2097143}.get(kind.split()[0], n // rows)
    ds = virtual_dataset((rows, length), dtype=dtype)
    names = [f"C{i}" for i in range(rows)]
    ds = ds.assign_coords(channel=names, channel_type=("channel", ["eeg"] * rows))
    ds.signal.attrs["units"] = "uV"
    if kind in ("placed", "projected"):
        from penstock.eeg import MNE as Step

        if kind == "placed":
            from mne.channels import make_standard_montage

            known = make_standard_montage("standard_1020").ch_names[:rows]
            ds = ds.assign_coords(channel=known, bad=("channel", np.arange(rows) < 2))
            steps = [Step("set_montage", "standard_1020")]
        else:
            steps = [Step("set_eeg_reference", projection=True)]
        ds = ps.Pipeline(steps)(ds)
    return ds


def _gaps(values: np.ndarray) -> np.ndarray:
    values[::7, ::5, ::3] = np.nan
    return values


def images(folder: Path) -> None:
    """An atlas, a mask, maps and confounds on the grid of the volumes."""
    import nibabel

    shape = (48, 56, 44)
    labels = (np.arange(np.prod(shape)).reshape(shape) // 1200).astype("i2")
    maps = np.stack([np.where(labels % 20 == i, 0.7, 0.0).astype("f4") for i in range(12)], -1)
    for name, data in (("atlas", labels), ("mask", (labels % 3 > 0).astype("u1")), ("maps", maps)):
        nibabel.save(nibabel.Nifti1Image(data, np.diag([3, 3, 3, 1.0])), folder / f"{name}.nii")
    columns = np.random.default_rng(0).standard_normal((400, 12))
    lines = ["\t".join(f"c{i}" for i in range(12))]
    lines += ["\t".join(f"{value:.6f}" for value in row) for row in columns]
    (folder / "confounds.tsv").write_text("\n".join(lines))


def main() -> None:
    group = sys.argv[1]
    asked = sys.argv[2:]
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if group == "fmri":
            images(Path(folder))
        for name, (kind, steps) in GROUPS[group].items():
            if asked and not any(part in name for part in asked):
                continue
            text = json.dumps({"pipeline": steps}).replace("{images}", folder)
            pipeline = ps.Pipeline.from_dict(json.loads(text), allow=["numpy", "scipy"])
            use = memory_use(pipeline.processors, dataset(kind))
            found[name] = {
                "declared": use.declared, "took": use.took, "block": use.block,
                "result": use.result, "step": use.largest_step,
            }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
