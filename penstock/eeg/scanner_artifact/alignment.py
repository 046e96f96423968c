"""Alignment of repeating epochs, by whole samples and by fractions of one: pure NumPy.

An artifact that repeats exactly is seen by an amplifier whose clock is not the scanner's, and its
markers lie on whole samples. Averaging epochs as marked therefore blurs the steep flanks of the
artifact, and the average no longer fits any epoch. The usual remedy upsamples the whole recording
ten times and moves markers by tenths of a sample. Here offsets are estimated as real numbers and
epochs are moved by a phase ramp (Fourier shift), at the rate the recording has.

An epoch is cut out with `PAD` samples around it that are faded to zero, so that what a shift moves
across the edges is signal that was there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft as scipy_fft

PAD = 32
"""Samples around an epoch that fade to zero before a fractional shift."""

REFERENCE_EPOCHS = 32
"""Epochs, spread over the recording, whose aligned mean is the reference."""


@dataclass(frozen=True)
class EpochTransform:
    """How epochs of a channel become the rows that are compared and averaged, and back.

    With `fractional` a row is the spectrum of the padded epoch (real and imaginary parts side by
    side), where a shift is a product and scalar products mean the same as in time; otherwise it is
    the epoch itself. The mean of every epoch is removed.

    Parameters
    ----------
    length : int
        Samples of an epoch.
    fractional : bool, default True
        Whether epochs are shifted by fractions of a sample.
    """

    length: int
    fractional: bool = True

    @property
    def pad(self) -> int:
        """Samples cut out at each side of an epoch."""
        return PAD if self.fractional else 0

    @property
    def span(self) -> int:
        """Samples cut out for an epoch, both pads included."""
        return self.length + 2 * self.pad

    @cached_property
    def n_fft(self) -> int:
        """Length of the Fourier transform."""
        return int(scipy_fft.next_fast_len(self.span, real=True)) if self.fractional else self.span

    @property
    def n_frequencies(self) -> int:
        """Frequencies of a spectrum."""
        return self.n_fft // 2 + 1

    @property
    def n_columns(self) -> int:
        """Real numbers in a row."""
        return 2 * self.n_frequencies if self.fractional else self.length

    @cached_property
    def fade(self) -> np.ndarray:
        """Rising flank of the pad, (pad,)."""
        return 0.5 - 0.5 * np.cos(np.pi * (np.arange(self.pad) + 0.5) / max(self.pad, 1))

    def gather(self, samples: np.ndarray, starts: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Cut epochs out of a stretch of one channel, take off their mean, fade the pads.

        Parameters
        ----------
        samples : numpy.ndarray, shape (n_samples,)
        starts : numpy.ndarray of int, shape (n_epochs,)
            First sample of each epoch in the stretch. What lies outside the stretch becomes zero.
        out : numpy.ndarray, shape (n_epochs, span)
            Receives the epochs.

        Returns
        -------
        numpy.ndarray of float64, shape (n_epochs,)
            Mean of each epoch, not finite where a sample of it is not.
        """
        pad, size = self.pad, len(samples)
        ragged = []
        for row, start in enumerate((np.asarray(starts) - pad).tolist()):
            low, high = max(start, 0), min(start + self.span, size)
            if high - low == self.span:
                out[row] = samples[low:high]
            else:
                # the pads at the ends of the recording, and epochs that the recording cuts off
                out[row] = 0
                inside = slice(low - start, max(high, low) - start)
                out[row, inside] = samples[low : max(high, low)]
                ragged.append((row, inside))
        core = out[:, pad : pad + self.length]
        means = core.mean(axis=1, dtype=np.float64)
        for row, inside in ragged:
            present = out[row, max(inside.start, pad) : min(inside.stop, pad + self.length)]
            means[row] = present.mean(dtype=np.float64) if len(present) else 0.0
        out -= means.astype(out.dtype)[:, None]
        for row, inside in ragged:
            out[row, : inside.start] = 0
            out[row, inside.stop :] = 0
        if pad:
            fade = self.fade.astype(out.dtype)
            out[:, :pad] *= fade
            out[:, -pad:] *= fade[::-1]
        return means

    def forward(self, epochs: np.ndarray, fractions: np.ndarray, out: np.ndarray) -> None:
        """Rows of gathered epochs, moved by ``-fractions`` [samples] onto the common raster.

        `epochs` is (n_epochs, span), `out` (n_epochs, n_columns) of the same dtype.
        """
        if not self.fractional:
            out[...] = epochs
            return
        spectra = out.view(np.result_type(out.dtype, np.complex64))
        spectra[...] = scipy_fft.rfft(epochs, n=self.n_fft, axis=1, workers=1)
        spectra *= phase_ramps(-fractions, self.n_frequencies, self.n_fft, spectra.dtype)
        self.blank_ends(spectra)

    def backward(self, rows: np.ndarray, fractions: np.ndarray) -> np.ndarray:
        """Epochs (n_epochs, length) of rows, moved by ``fractions``. Overwrites `rows`."""
        if not self.fractional:
            return rows
        spectra = rows.view(np.result_type(rows.dtype, np.complex64))
        spectra *= phase_ramps(fractions, self.n_frequencies, self.n_fft, spectra.dtype)
        epochs = scipy_fft.irfft(spectra, n=self.n_fft, axis=1, overwrite_x=True, workers=1)
        return epochs[:, self.pad : self.pad + self.length]

    def blank_ends(self, spectra: np.ndarray) -> None:
        """Zero the mean and the Nyquist frequency of spectra, in place."""
        # All other frequencies count twice in a scalar product of signals (they stand for their
        # conjugates too); without these two the product of rows is that of signals, but a factor.
        # Nor can a fraction of a sample move the Nyquist frequency.
        spectra[:, 0] = 0
        if self.n_fft % 2 == 0:
            spectra[:, -1] = 0


def phase_ramps(shifts: np.ndarray, n_frequencies: int, n_fft: int, dtype: object) -> np.ndarray:
    """Factors that delay spectra: ``exp(-2j pi k shift / n_fft)``, (n_shifts, n_frequencies).

    Made as products of a coarse and a fine ramp: a complex exponential for every frequency of
    every epoch would cost more than the Fourier transforms.
    """
    step = 64
    turns = -2j * np.pi / n_fft * np.asarray(shifts, dtype=np.float64)[:, None]
    fine = np.exp(turns * np.arange(step)).astype(dtype)
    coarse = np.exp(turns * step * np.arange(-(-n_frequencies // step))).astype(dtype)
    ramps = coarse[:, :, None] * fine[:, None, :]
    return ramps.reshape(len(ramps), -1)[:, :n_frequencies]


def shift_epochs(epochs: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Delay each row by its own, possibly fractional, number of samples.

    Parameters
    ----------
    epochs : numpy.ndarray, shape (n_epochs, length)
        Rows that fade to zero at both ends (the shift is circular over a fast length).
    shifts : numpy.ndarray, shape (n_epochs,)
        Delay of each row [samples].

    Returns
    -------
    numpy.ndarray, shape (n_epochs, length)

    Examples
    --------
    >>> import numpy as np
    >>> pulse = np.exp(-0.5 * ((np.arange(64) - 30) / 3.0) ** 2)
    >>> later = shift_epochs(pulse[None], np.array([0.25]))[0]
    >>> bool(np.allclose(later, np.exp(-0.5 * ((np.arange(64) - 30.25) / 3.0) ** 2), atol=1e-6))
    True
    """
    n_fft = scipy_fft.next_fast_len(epochs.shape[1] + 2, real=True)
    spectra = scipy_fft.rfft(epochs, n=n_fft, axis=1, workers=1)
    spectra *= phase_ramps(shifts, spectra.shape[1], n_fft, spectra.dtype)
    return scipy_fft.irfft(spectra, n=n_fft, axis=1, workers=1)[:, : epochs.shape[1]]


def whole_lags(cross: np.ndarray, n_fft: int, search: int) -> np.ndarray:
    """Whole-sample delays at which epochs correlate best with a reference.

    Readout gradients repeat every half millisecond or so: of lags that fit within half a percent
    equally well, the one nearer to zero is taken.

    Parameters
    ----------
    cross : numpy.ndarray of complex, shape (n_epochs, n_frequencies)
        Spectra of the epochs times the conjugate spectrum of the reference.
    n_fft : int
        Length of the Fourier transform.
    search : int
        Largest delay considered, either way [samples].

    Returns
    -------
    numpy.ndarray of int64, shape (n_epochs,)
    """
    correlation = scipy_fft.irfft(cross, n=n_fft, axis=1, workers=1)
    lags = np.arange(-search, search + 1)
    preference = 1 - 0.005 * (lags / max(search, 1)) ** 2
    return lags[np.argmax(correlation[:, lags] * preference, axis=1)]


def fractional_lags(
    cross: np.ndarray, n_fft: int, n_steps: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Delays, as fractions of a sample, at which epochs correlate best with a reference.

    A delay is a slope of the phase of the cross-spectrum. Every step fits that slope through the
    origin by weighted least squares over frequency, with the magnitude of the cross-spectrum as
    weight and the sine of the phase for the phase (a phase near zero equals its sine, one that is
    noise does not run away), and takes it out. The fixed point is the maximum of the band-limited
    cross-correlation.

    Parameters
    ----------
    cross : numpy.ndarray of complex, shape (n_epochs, n_frequencies)
        Spectra of the epochs times the conjugate spectrum of the reference, aligned to about a
        sample.
    n_fft : int
        Length of the Fourier transform.
    n_steps : int, default 4

    Returns
    -------
    lags : numpy.ndarray, shape (n_epochs,)
        Delay of each epoch behind the reference [samples], at most 1 either way.
    weights : numpy.ndarray, shape (n_epochs,)
        Curvature of the cross-correlation at its maximum: how well the delay is determined. Zero
        where there is no maximum.
    """
    frequencies = 2 * np.pi / n_fft * np.arange(cross.shape[1])
    squares = frequencies**2
    lags = np.zeros(len(cross))
    curvature = np.zeros(len(cross))
    for _ in range(n_steps):
        turned = cross * phase_ramps(-lags, cross.shape[1], n_fft, cross.dtype)
        curvature = turned.real @ squares
        slope = turned.imag @ frequencies
        steps = np.divide(-slope, curvature, out=np.zeros(len(cross)), where=curvature > 0)
        lags = np.clip(lags + np.clip(steps, -0.5, 0.5), -1.0, 1.0)
    return lags, np.maximum(curvature, 0.0)


def estimate_offsets(
    read: Callable[[int, int], np.ndarray],
    size: int,
    starts: np.ndarray,
    length: int,
    search: int,
    fractional: bool = True,
    batch_bytes: int = 1 << 20,
) -> tuple[np.ndarray, np.ndarray]:
    """How far each epoch of one channel lies from where its trigger says.

    The reference is the mean of up to `REFERENCE_EPOCHS` epochs spread over the recording. It
    begins with the one most similar to the unaligned mean and is refined three times, by aligning
    the epochs to it and averaging anew. Then all epochs are compared with it, batch by batch.

    Parameters
    ----------
    read : callable
        ``read(start, stop)`` returns these samples of the channel.
    size : int
        Samples of the channel.
    starts : numpy.ndarray of int64, shape (n_epochs,)
        First sample of each epoch by its trigger, increasing.
    length : int
        Samples of an epoch.
    search : int
        Largest offset [samples].
    fractional : bool, default True
        Whether offsets may be fractions of a sample.
    batch_bytes : int, default 1 MiB
        Memory for the epochs compared at a time.

    Returns
    -------
    offsets : numpy.ndarray of float64, shape (n_epochs,)
        Offset of each epoch [samples]; their median is zero (to a whole sample, unless
        `fractional`), as a common offset cannot be told from the shape of the artifact.
    weights : numpy.ndarray of float64, shape (n_epochs,)
        How well the channel determines each offset; zero where it does not (a flat channel).

    Examples
    --------
    >>> import numpy as np
    >>> time = np.arange(4000)
    >>> late = np.array([0.0, 0.3, -0.2, 0.0])
    >>> x = sum(np.exp(-0.5 * ((time - 500 - 1000 * k - late[k]) / 4) ** 2) for k in range(4))
    >>> offsets, _ = estimate_offsets(lambda a, b: x[a:b], 4000, np.arange(0, 4000, 1000), 1000, 3)
    >>> np.round(offsets, 3) + 0.0
    array([ 0. ,  0.3, -0.2,  0. ])
    """
    transform = EpochTransform(length)
    complete = np.flatnonzero((starts >= 0) & (starts + length <= size))
    if not len(complete):
        return np.zeros(len(starts)), np.zeros(len(starts))
    few = np.unique(np.linspace(0, len(complete) - 1, REFERENCE_EPOCHS).round().astype(np.int64))
    chosen = starts[complete[few]]
    batch = max(1, batch_bytes // (4 * transform.n_fft))

    def spectra_at(first_samples: np.ndarray) -> np.ndarray:
        low = max(0, int(first_samples.min()) - transform.pad)
        high = min(size, int(first_samples.max()) + length + transform.pad)
        samples = read(low, high)
        work = np.result_type(samples.dtype, np.float32)
        epochs = np.empty((len(first_samples), transform.span), work)
        transform.gather(samples, first_samples - low, epochs)
        spectra = scipy_fft.rfft(epochs, n=transform.n_fft, axis=1, workers=1)
        transform.blank_ends(spectra)
        return spectra

    reference = _reference(spectra_at, chosen, transform.n_fft, search, fractional)
    offsets, weights = np.zeros(len(starts)), np.zeros(len(starts))
    for rows in _batches(starts, length, batch):
        shown = _visible(reference, starts[rows], transform, size)
        spectra = spectra_at(starts[rows])
        lags = whole_lags(spectra * np.conj(shown), transform.n_fft, search)
        if np.any(lags):
            spectra = spectra_at(starts[rows] + lags)
            shown = _visible(reference, starts[rows] + lags, transform, size)
        fractions, weights[rows] = fractional_lags(spectra * np.conj(shown), transform.n_fft)
        offsets[rows] = lags + (fractions if fractional else 0)
    middle = np.median(offsets[complete])
    offsets -= middle if fractional else np.rint(middle)
    return np.clip(offsets, -search - 1, search + 1), weights


def _reference(
    spectra_at: Callable[[np.ndarray], np.ndarray],
    starts: np.ndarray,
    n_fft: int,
    search: int,
    fractional: bool,
) -> np.ndarray:
    """Spectrum (n_frequencies,) of the refined mean of the epochs at `starts`.

    Epochs are taken one by one: they are spread over the recording, and long at high rates.
    """
    spectra = np.concatenate([spectra_at(start[None]) for start in starts])
    mean = spectra.sum(axis=0, dtype=np.complex128).astype(spectra.dtype)
    norms = np.array([np.linalg.norm(spectrum) for spectrum in spectra])
    likeness = np.real(spectra @ np.conj(mean)) / np.where(norms > 0, norms, 1)
    reference = spectra[int(np.argmax(likeness))]
    whole = np.zeros(len(starts), dtype=np.int64)
    for _ in range(3):
        # twice the range, because this epoch may itself be off by all of it the other way
        cross = (spectrum[None] * np.conj(reference) for spectrum in spectra)
        lags = np.concatenate([whole_lags(one, n_fft, 2 * search) for one in cross])
        if np.any(lags):
            moved = whole + lags
            moved = np.clip(moved - int(np.rint(np.median(moved))), -search, search)
            for k in np.flatnonzero(moved != whole):
                spectra[k] = spectra_at(starts[k : k + 1] + moved[k])[0]
            whole = moved
        fractions = np.zeros(len(starts))
        if fractional:
            cross = (spectrum[None] * np.conj(reference) for spectrum in spectra)
            fractions = np.concatenate([fractional_lags(one, n_fft)[0] for one in cross])
            fractions -= np.median(fractions)
        total = np.zeros(len(reference), np.complex128)
        for spectrum, fraction in zip(spectra, fractions, strict=True):
            total += (
                spectrum
                * phase_ramps(np.array([-fraction]), len(reference), n_fft, spectra.dtype)[0]
            )
        reference = (total / len(starts)).astype(spectra.dtype)
    return reference


def _batches(starts: np.ndarray, length: int, batch: int) -> Iterator[slice]:
    """Slices of at most `batch` epochs that lie close together: they are read in one stretch."""
    low = 0
    for high in range(1, len(starts) + 1):
        too_far = high < len(starts) and starts[high] - starts[low] > 2 * batch * length
        if high == len(starts) or high - low == batch or too_far:
            yield slice(low, high)
            low = high


def _visible(
    reference: np.ndarray, starts: np.ndarray, transform: EpochTransform, size: int
) -> np.ndarray:
    """The reference as epochs that the recording cuts off would show it.

    (n_frequencies,) where all epochs lie inside, otherwise (n_epochs, n_frequencies).
    """
    cut = np.flatnonzero((starts < 0) | (starts + transform.length > size))
    if not len(cut):
        return reference
    shape = scipy_fft.irfft(reference, n=transform.n_fft, workers=1)[: transform.span]
    shown = np.repeat(reference[None], len(starts), axis=0)
    epoch = np.empty((1, transform.span), shape.dtype)
    for row in cut:
        # the same cut for both: zeros before the recording, and after it
        low = max(0, -(int(starts[row]) - transform.pad))
        high = min(transform.span, size - (int(starts[row]) - transform.pad))
        epoch[:] = 0
        epoch[0, low:high] = shape[low:high]
        shown[row] = scipy_fft.rfft(epoch[0], n=transform.n_fft, workers=1)
        transform.blank_ends(shown[row : row + 1])
    return shown


def combine_offsets(offsets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """One offset for each epoch from the estimates of several channels.

    The weighted mean of the estimates within half a sample of their weighted median: one channel
    that locked onto a wrong peak does not pull the others away.

    Parameters
    ----------
    offsets, weights : numpy.ndarray, shape (n_channels, n_epochs)

    Returns
    -------
    numpy.ndarray, shape (n_epochs,)
        Zero where no channel has a weight.

    Examples
    --------
    >>> import numpy as np
    >>> combine_offsets(np.array([[0.1], [3.0], [0.3]]), np.ones((3, 1)))
    array([0.2])
    """
    order = np.argsort(offsets, axis=0, kind="stable")
    sorted_offsets = np.take_along_axis(offsets, order, axis=0)
    heaped = np.cumsum(np.take_along_axis(weights, order, axis=0), axis=0)
    middle = np.argmax(heaped >= heaped[-1] / 2, axis=0)
    median = np.take_along_axis(sorted_offsets, middle[None], axis=0)
    used = np.where(np.abs(offsets - median) <= 0.5, weights, 0.0)
    total = used.sum(axis=0)
    return np.divide((used * offsets).sum(axis=0), total, out=np.zeros(len(total)), where=total > 0)
