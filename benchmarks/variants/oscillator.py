"""Fit a simple harmonic oscillator to every spectrum of a file: WAY SOURCE.npy TARGET.npz [TIMES].

Ways: loop (SciPy's curve_fit), sidpy (SidFitter), penstock (1 thread), penstock2 (2 threads),
processes (2, into a store).
"""

import json
import os
import sys
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402

F = np.linspace(286e3, 354e3, 119)


def response(f, a, b, w0, q):
    """Real and imaginary part, one after the other; `w0` in units of 300 kHz, `a`, `b` of 1e-4."""
    x = w0 * 300e3
    y = (a + 1j * b) * 1e-4 * x**2 / (f**2 - 1j * f * x / q - x**2)
    return np.hstack([y.real, y.imag])


def first_guess(spectrum):
    peak = int(np.argmax(np.abs(spectrum)))
    value = spectrum[peak] / 40 / 1e-4 * 1j
    return [-value.real, -value.imag, F[peak] / 300e3, 40.0]


def main() -> None:
    way, source, target, *times = sys.argv[1:]
    data = np.load(source).astype(np.complex128)
    seconds, cpu = [], []
    for _ in range(int(times[0]) if times else 1):
        began, used = time.perf_counter(), time.process_time()
        if way == "loop":
            from scipy.optimize import curve_fit

            fitted = np.array(
                [
                    curve_fit(response, F, np.hstack([y.real, y.imag]), p0=first_guess(y))[0]
                    for y in data
                ]
            )
            model = np.array([response(F, *p) for p in fitted])
            model = model[:, : len(F)] + 1j * model[:, len(F) :]
        elif way == "sidpy":
            model = _sidpy(data)
        else:
            import penstock as ps
            from penstock.spectra import Fit

            ds = ps.make_dataset(data, ("position", "frequency"), coords={"frequency": F})
            fit = Fit(model="simple_harmonic_oscillator")
            if way == "processes":
                out = target + ".out"
                report = ps.Pipeline([fit]).run(
                    ds, out, memory="1GiB", workers=2, overwrite=True, progress=False
                )
                assert report.ok, report
                results = ps.open_dataset(out + "/dataset.zarr")
            else:
                n = 2 if way == "penstock2" else 1
                results = ps.Pipeline([fit])(ds).compute(num_workers=n)
            seconds.append(time.perf_counter() - began)
            cpu.append(time.process_time() - used)
            model = fit.curve(results, F).values
            continue
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    residuals = (np.abs(data - model) ** 2).sum(axis=1)
    np.savez(target, residuals=residuals)
    print(json.dumps({"seconds": min(seconds), "first": seconds[0], "cpu": min(cpu)}))


def _sidpy(data):
    import sidpy
    from sidpy.proc.fitter import SidFitter

    side = int(len(data) ** 0.5)
    ds = sidpy.Dataset.from_array(data.reshape(side, side, -1))
    ds.data_type = "spectral_image"
    for i, (name, values, kind) in enumerate(
        (("y", np.arange(side), "SPATIAL"), ("x", np.arange(side), "SPATIAL"),
         ("f", F, "SPECTRAL"))
    ):  # fmt: skip
        ds.set_dimension(i, sidpy.Dimension(values, name=name, units="a", quantity=name,
                                            dimension_type=kind))  # fmt: skip
    fitter = SidFitter(
        ds, response, num_workers=2, threads=1, guess_fn=lambda f, y: first_guess(y),
        num_fit_parms=4, fit_parameter_labels=["a", "b", "w0", "q"],
        km_guess=False, return_cov=False, return_std=False, return_fit=False,
    )  # fmt: skip
    fitter.do_guess()
    parameters = np.asarray(fitter.do_fit()[0]).reshape(len(data), -1)
    model = np.array([response(F, *p[:4]) for p in parameters])
    return model[:, : len(F)] + 1j * model[:, len(F) :]


if __name__ == "__main__":
    main()
