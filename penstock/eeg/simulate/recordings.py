"""Simulated EEG of any length, made on demand, with the artifacts of simultaneous fMRI.

Any region is computed when it is read, and only that region, so a recording far larger than any
disk opens at once. Every value depends on the parameters and its own position alone: whatever the
blocks, the values are the same, bit for bit. Three things make that possible:

* random numbers come from a counter-based generator, addressed by (seed, stream, channel, chunk);
* the background is white noise through a finite filter, computed on a fixed grid of chunks;
* what happens at moments (blinks, heartbeats, alpha bursts, volumes) is a grid of numbered
  occurrences, each shifted at random: those near a region are found without counting from zero.

Values may change between versions of NumPy or Penstock: a simulation is no reference data.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.dataset import Indexer, lazy_variable, make_dataset
from penstock.eeg.simulate import scanner
from penstock.eeg.simulate.scanner import EegStream
from penstock.memory.buffers import scratch_buffer
from penstock.random_streams import draws, random_generator
from penstock.reading import Reading

if TYPE_CHECKING:
    import xarray as xr

# The first 32 are the usual MR cap, the rest complete 64.
_NAMES = tuple(
    """
    Fp1 Fp2 F3 F4 C3 C4 P3 P4 O1 O2 F7 F8 T7 T8 P7 P8 Fz Cz Pz Oz FC1 FC2 CP1 CP2 FC5 FC6 CP5 CP6
    TP9 TP10 POz Fpz F1 F2 C1 C2 P1 P2 AF3 AF4 FC3 FC4 CP3 CP4 PO3 PO4 F5 F6 C5 C6 P5 P6 AF7 AF8
    FT7 FT8 TP7 TP8 PO7 PO8 FT9 FT10 CPz FCz
    """.split()  # noqa: SIM905 - one name a line would be long
)
_ROWS = {"Fp": 1.0, "AF": 0.8, "F": 0.55, "FC": 0.3, "FT": 0.3, "C": 0.0, "T": 0.0}
_ROWS |= {"CP": -0.3, "TP": -0.3, "P": -0.55, "PO": -0.8, "O": -1.0}

_BACKGROUND, _ALPHA, _BLINK, _ECG = 16.0, 30.0, 110.0, 1000.0
"""Background rms, and peaks where each source is strongest [uV]: 20 uV rms in all."""
_ALPHA_RHYTHM, _BLINK_RHYTHM, _BEAT_RHYTHM = (1.7, 0.9), (5.0, 0.8), (60 / 66, 0.1)
"""One every so many seconds, placed at random within that fraction of them."""
_ALPHA_LONGEST, _BLINK_DURATION, _BEAT_BEFORE, _BEAT_AFTER = 2.0, 0.4, 0.3, 0.9

_COMMON = 2
"""Background sources that all channels share."""


def recording(
    n_channels: int = 32,
    duration: float = 300.0,
    sampling_frequency: float = 5000.0,
    *,
    seed: int = 0,
    fmri: bool = False,
    repetition_time: float = 2.0,
    n_slices: int = 20,
    start_padding: float = 5.0,
    end_padding: float = 5.0,
    trigger_jitter: float = 20e-6,
    clock_drift: float = 2.0,
    shape_drift: float = 0.03,
    gradient_amplitude: float = 5000.0,
    bcg: float = 50.0,
    blinks: bool = True,
    ecg: bool = True,
    dtype: Any = "float32",
) -> xr.Dataset:
    """Simulate an EEG recording, optionally inside a running MR scanner.

    Nothing is computed until a region is read, and then that region only: a recording of 200 GiB
    opens at once.

    Parameters
    ----------
    n_channels : int, default 32
        EEG channels. The first 64 are named after the 10-20 system, further ones ``E65`` and on.
    duration : float, default 300
        Length of the recording [s].
    sampling_frequency : float, default 5000
        Samples per second [Hz].
    seed : int, default 0
        Another seed gives another recording of the same kind.
    fmri : bool, default False
        Whether the recording is made during fMRI: adds the gradient artifact, the
        ballistocardiogram, and an event ``"1"`` for every volume.
    repetition_time : float, default 2
        Time from volume to volume on the scanner's clock (TR) [s].
    n_slices : int, default 20
        Slices per volume, evenly spread over the TR.
    start_padding, end_padding : float, default 5
        Time without scanning before the first volume, and about that after the last one [s].
    trigger_jitter : float, default 20e-6
        Shift of each volume's artifact against its due time [s, rms]; common to all channels.
    clock_drift : float, default 2
        How much longer the scanner's seconds are than the amplifier's [parts per million].
    shape_drift : float, default 0.03
        Slow change of each channel's mixture of the three gradient axes, as by a moving head, over
        3 to 15 minutes [rms, as a fraction of the channel's artifact].
    gradient_amplitude : float, default 5000
        Peak of the gradient artifact in a typical channel [uV]. Channels differ several-fold.
    bcg : float, default 50
        Peak of the ballistocardiogram where it is strongest [uV]. Only with `fmri`.
    blinks : bool, default True
        Whether there are blinks, and an event ``"blink"`` for each.
    ecg : bool, default True
        Whether an ECG channel follows the EEG channels.
    dtype : {"float32", "float64"}, default "float32"
        Type of the values. Both types give the same recording to within single precision.

    Returns
    -------
    xarray.Dataset
        ``signal`` (channel, time) [uV], what the amplifier records; ``truth`` (channel, time) [uV],
        the same without the gradient artifact, but with blinks, ECG and ballistocardiogram.
        Coordinates ``channel``, ``channel_type``, ``channel_unit``, ``bad``, and events: volumes at
        the sample nearest to their due time, blinks at their first sample. With `fmri`,
        ``volume_onset`` (volume) [s] holds the time at which each volume's artifact really starts.

    Raises
    ------
    ValueError
        If a parameter is out of range, or no volume fits into the recording.

    Notes
    -----
    The background has a power spectrum of 1/f above about 0.5 Hz; half of it is common to the
    channels. The artifact follows the usual account of its origin [1]_: the voltage that the slopes
    of an echo-planar sequence's gradients induce, other for each channel, behind an anti-alias
    filter at 0.4 of the Nyquist frequency. It is a trigonometric polynomial and is therefore exact
    at any fraction of a sample. The ballistocardiogram comes about 0.2 s after the R peak [2]_.

    References
    ----------
    .. [1] Allen, Josephs, Turner (2000), A method for removing imaging artifact from continuous EEG
       recorded during functional MRI, NeuroImage 12(2).
    .. [2] Allen et al. (1998), Identification of EEG events in the MR scanner, NeuroImage 8(3).

    Examples
    --------
    >>> from penstock.eeg import simulate
    >>> ds = simulate.recording(8, duration=20.0, fmri=True)
    >>> ds.signal.shape, int((ds.event_label == "1").sum())
    ((9, 100000), 5)
    >>> ds.truth.sel(channel="Fp1", time=slice(1, 2)).shape
    (5001,)
    """
    simulation = SimulatedRecording(**locals())  # the parameters, as nothing else is local yet
    names = simulation.channel_names
    coords: dict[str, Any] = {
        "channel": names,
        "channel_type": ("channel", ["ecg" if name == "ECG" else "eeg" for name in names]),
        "channel_unit": ("channel", ["uV"] * len(names)),
        "bad": ("channel", np.zeros(len(names), bool)),
    }
    frequency = simulation.sampling_frequency
    starts, lengths, labels = [np.zeros(0)], [np.zeros(0)], [np.zeros(0, "U5")]
    if fmri:
        due, onsets = simulation.volumes(0, simulation.n_volumes)
        coords["volume_onset"] = ("volume", onsets, {"units": "s"})
        starts.append(np.rint(due * frequency))
        lengths.append(np.zeros(len(due)))
        labels.append(np.full(len(due), "1", "U5"))
    if blinks:
        length = simulation.samples(_BLINK_DURATION)
        whole = simulation.occurrences(
            EegStream.BLINKS, *_BLINK_RHYTHM, 0, max(0, simulation.n_times - length)
        )
        starts.append(whole[0])
        lengths.append(np.full(len(whole[0]), length))
        labels.append(np.full(len(whole[0]), "blink"))
    start = np.concatenate(starts)
    order = np.argsort(start, kind="stable")
    # not by way of a table: 200 GiB hold a quarter of a million events
    seconds = {"units": "s"}
    coords["event_onset"] = ("event", start[order] / frequency, seconds)
    coords["event_duration"] = ("event", np.concatenate(lengths)[order] / frequency, seconds)
    coords["event_label"] = ("event", np.concatenate(labels)[order])
    ds = make_dataset(
        simulation.variable(gradient=fmri),
        sampling_frequency=frequency,
        coords=coords,
        attrs={
            "measurement_date": "2026-01-01T12:00:00+00:00",
            "simulation": dataclasses.asdict(simulation),
        },
    )
    return ds.assign(truth=simulation.variable(gradient=False))


@dataclass(frozen=True)
class SimulatedRecording:
    """The parameters of `recording`, and what is in a region of it."""

    n_channels: int
    duration: float
    sampling_frequency: float
    seed: int
    fmri: bool
    repetition_time: float
    n_slices: int
    start_padding: float
    end_padding: float
    trigger_jitter: float
    clock_drift: float
    shape_drift: float
    gradient_amplitude: float
    bcg: float
    blinks: bool
    ecg: bool
    dtype: str

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "dtype":
                value = np.dtype(value).name
            elif field.type == "int" and value != int(value):
                raise ValueError(f"{field.name} must be a whole number, got {value!r}")
            else:
                value = {"int": int, "float": float, "bool": bool}[str(field.type)](value)
            # plain values only: they are hashed, pickled and written to files
            object.__setattr__(self, field.name, value)
        for name in ("n_channels", "duration", "sampling_frequency", "repetition_time", "n_slices"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        for name in ("seed", "start_padding", "end_padding", "trigger_jitter", "shape_drift"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)!r}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype}")
        if self.n_times < 1:
            raise ValueError(f"a duration of {self.duration:g} s holds no sample: make it longer")
        if self.fmri and self.trigger_jitter > self.repetition_time / 100:
            raise ValueError(
                f"trigger_jitter={self.trigger_jitter:g} s is more than a hundredth of the "
                f"repetition time ({self.repetition_time:g} s): jitter is a fraction of a sample"
            )
        if self.fmri and self.n_volumes < 1:
            raise ValueError(
                f"no volume of {self.repetition_time:g} s fits into {self.duration:g} s between "
                f"{self.start_padding:g} s before and {self.end_padding:g} s after: make duration "
                "longer or the paddings shorter"
            )

    # ------------------------------------------------------------------ sizes and times

    @property
    def n_times(self) -> int:
        """Samples of the recording."""
        return round(self.duration * self.sampling_frequency)

    @property
    def channel_names(self) -> list[str]:
        """EEG channels, then the ECG channel if there is one."""
        extra = [f"E{i + 1}" for i in range(len(_NAMES), self.n_channels)]
        return [*_NAMES[: self.n_channels], *extra, *["ECG"] * self.ecg]

    @property
    def volume_interval(self) -> float:
        """Time from volume to volume on the recording's clock [s]."""
        return self.repetition_time * (1 + self.clock_drift * 1e-6)

    @property
    def n_volumes(self) -> int:
        """Whole volumes between the paddings."""
        room = self.duration - self.start_padding - self.end_padding
        return max(0, math.floor(room / self.volume_interval + 1e-3)) if self.fmri else 0

    @property
    def n_taps(self) -> int:
        """Length of the background's filter, a power of two of at least 3 s; a chunk is three."""
        return max(4096, 2 ** math.ceil(math.log2(3 * self.sampling_frequency)))

    def samples(self, seconds: float) -> int:
        """Samples in a stretch of time, at least one."""
        return max(1, round(seconds * self.sampling_frequency))

    def occurrences(
        self, stream: int, spacing: float, jitter: float, start: int, stop: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Those that start in ``[start, stop)``: first samples, uniform and normal draws (n, 2).

        One falls into every `spacing` seconds, placed at random within the fraction `jitter` of it.
        """
        spacing *= self.sampling_frequency
        first, last = math.floor(start / spacing) - 1, math.ceil(stop / spacing) + 2
        uniform, normal = draws(self.seed, stream, first, last)
        number = np.arange(first, last)
        starts = np.rint((number + 0.5 + jitter * (uniform[:, 0] - 0.5)) * spacing).astype(np.int64)
        inside = (starts >= start) & (starts < stop)
        return starts[inside], uniform[inside], normal[inside]

    def volumes(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """When volumes are due, and when their artifacts start, on the recording's clock [s]."""
        due = self.start_padding + np.arange(first, last) * self.volume_interval
        return due, due + self.trigger_jitter * draws(self.seed, EegStream.VOLUMES, first, last)[1][
            :, 0
        ]

    # ------------------------------------------------------------------ reading

    def variable(self, *, gradient: bool) -> xr.Variable:
        """The lazily read recording, with or without its gradient artifact."""
        shape = (len(self.channel_names), self.n_times)
        item = np.dtype(self.dtype).itemsize
        # measured, with a third to spare: noise, spectra and sources of one chunk
        fixed = 96 * self.n_taps * item
        if gradient:  # the three axes of one volume, and their template while it is made
            period, fine = scanner.template_sizes(self)
            fixed += 20 * period * item + 64 * fine
        return lazy_variable(
            ("channel", "time"),
            partial(self.read, gradient=gradient),
            shape,
            self.dtype,
            attrs={"units": "uV"},
            reading=Reading(scratch_bytes=fixed),
        )

    def read(self, channels: Indexer, times: Indexer, *, gradient: bool) -> np.ndarray:
        """A region, as `penstock.dataset.LazyArray` asks for it."""
        numbers = np.arange(len(self.channel_names))[channels]
        chunk = 3 * self.n_taps
        if isinstance(times, slice):
            out = np.empty((len(numbers), times.stop - times.start), self.dtype)
            for index in range(times.start // chunk, -(-times.stop // chunk)):
                self._fill_chunk(out, numbers, times.start, index)
            if gradient:
                self._add_gradient(out, numbers, times.start)
            return out
        # picked samples: one chunk after the other, so that far ones cost no more than near ones
        out = np.empty((len(numbers), len(times)), self.dtype)
        edges = np.arange(0, self.n_times + chunk, chunk) if len(times) else np.zeros(0)
        for low, high in itertools.pairwise(np.searchsorted(times, edges)):
            if low < high:
                picked = times[low:high]
                stretch = slice(int(picked[0]), int(picked[-1]) + 1)
                for row, number in enumerate(numbers):
                    part = self.read(slice(number, number + 1), stretch, gradient=gradient)
                    out[row, low:high] = part[0, picked - picked[0]]
        return out

    def _fill_chunk(self, out: np.ndarray, numbers: np.ndarray, start: int, index: int) -> None:
        """Write everything but the gradient artifact of one chunk of the grid into `out`."""
        from scipy import fft

        n_taps, dtype = self.n_taps, self.dtype
        low = max(start, index * 3 * n_taps)
        high = min(start + out.shape[1], (index + 1) * 3 * n_taps)
        wanted = slice(low - index * 3 * n_taps, high - index * 3 * n_taps)
        weights = _weights(self)[numbers]
        common_weights, own_weights = weights[:, :_COMMON], weights[:, _COMMON]
        source_weights = weights[:, _COMMON + 1 :]

        common = scratch_buffer("simulate common", (_COMMON, 4 * n_taps), dtype)
        for source in np.flatnonzero(common_weights.any(axis=0)):
            self._white(common[source], -1 - int(source), index)
        sources = scratch_buffer("simulate sources", (source_weights.shape[1], 3 * n_taps), dtype)
        self._fill_sources(sources, index * 3 * n_taps, source_weights.any(axis=0))

        response = _background_response(self)
        white = scratch_buffer("simulate white", (4 * n_taps,), dtype)
        product = scratch_buffer("simulate product", (4 * n_taps,), dtype)
        for row, number in enumerate(numbers):
            # mixed before the filter: one filter a channel, however many sources
            self._white(white, int(number), index)
            white *= own_weights[row]
            for source in np.flatnonzero(common_weights[row]):
                white += np.multiply(common[source], common_weights[row, source], out=product)
            spectrum = fft.rfft(white)
            spectrum *= response
            filtered = fft.irfft(spectrum, 4 * n_taps, overwrite_x=True)[n_taps:][wanted]
            part = out[row, low - start : high - start]
            part[...] = filtered
            for source in np.flatnonzero(source_weights[row]):
                scaled = product[: high - low]
                np.multiply(sources[source, wanted], source_weights[row, source], out=scaled)
                part += scaled

    def _white(self, out: np.ndarray, channel: int, index: int) -> None:
        """White noise of a chunk, and before it what the filter still remembers."""
        for piece, part in enumerate(out.reshape(4, -1)):
            generator = random_generator(self.seed, EegStream.WHITE, channel, 3 * index - 1 + piece)
            # always drawn in single precision, so that both dtypes give the same recording
            part[...] = generator.standard_normal(part.size, dtype=np.float32)

    def _fill_sources(self, sources: np.ndarray, start: int, used: np.ndarray) -> None:
        """What happens at moments, in the order of the weights: alpha, blinks, ECG, BCG."""
        sources.fill(0)
        length = sources.shape[1]

        def add(source: int, first: int, shape: np.ndarray, amplitude: float) -> None:
            low, high = max(0, first - start), min(length, first - start + len(shape))
            if low < high and used[source]:
                cut = shape[low + start - first : high + start - first]
                sources[source, low:high] += np.asarray(amplitude * cut, sources.dtype)

        for source, stream in enumerate((EegStream.POSTERIOR, EegStream.CENTRAL)):
            if not used[source]:
                continue
            reach = self.samples(_ALPHA_LONGEST)
            for first, uniform, normal in zip(
                *self.occurrences(stream, *_ALPHA_RHYTHM, start - reach, start + length),
                strict=True,
            ):
                size = self.samples(_ALPHA_LONGEST * (0.3 + 0.7 * uniform[1]))
                frequency = float(np.clip(10.0 + 0.7 * normal[0], 8.0, 12.0))
                burst = _burst(size, frequency / self.sampling_frequency, 2 * np.pi * normal[1])
                add(source, int(first), burst, 0.3 + 0.7 * uniform[0])
        if used[2]:
            blink = _blink_shape(self)
            for first, uniform, _ in zip(
                *self.occurrences(
                    EegStream.BLINKS, *_BLINK_RHYTHM, start - len(blink), start + length
                ),
                strict=True,
            ):
                add(2, int(first), blink, 0.6 + 0.8 * uniform[1])
        if used[3:].any():
            before, after = self.samples(_BEAT_BEFORE), self.samples(_BEAT_AFTER)
            beats = self.occurrences(
                EegStream.BEATS, *_BEAT_RHYTHM, start - after, start + length + before
            )
            for peak, _, normal in zip(*beats, strict=True):
                for component, shape in enumerate(_beat_shapes(self)):
                    # the heart's electricity is steadier than the body's movement with it
                    amplitude = 1 + (0.1 if component else 0.02) * normal[0]
                    add(3 + component, int(peak) - before, shape, amplitude)

    def _add_gradient(self, out: np.ndarray, numbers: np.ndarray, start: int) -> None:
        """Add the artifact of every volume that reaches into a stretch of time."""
        from scipy import fft

        template, size = scanner.template(self)
        frequency, padding = self.sampling_frequency, scanner.padding(self)
        stop = start + out.shape[1]
        # a volume to spare on both sides for the jitter; those beside the stretch are skipped
        reach = size / frequency - padding
        first = math.floor((start / frequency - self.start_padding - reach) / self.volume_interval)
        last = math.ceil((stop / frequency - self.start_padding + padding) / self.volume_interval)
        first, last = max(0, first - 1), min(self.n_volumes, last + 2)
        if first >= last:
            return
        due, onsets = self.volumes(first, last)
        turns = -2j * np.pi * np.arange(template.shape[1]) / size
        scaled = scratch_buffer("simulate gradient", (size,), self.dtype)
        for time, position in zip(due, (onsets - padding) * frequency, strict=True):
            begin = math.floor(position)
            low, high = max(start, begin), min(stop, begin + size)
            if low >= high:
                continue
            shifted = template * np.exp(turns * (position - begin))
            axes = fft.irfft(shifted.astype(np.result_type(self.dtype, "complex64")), size)
            mixture = scanner.mixture(self, float(time))[numbers]
            for row, weights in enumerate(mixture):
                part = out[row, low - start : high - start]
                product = scaled[: high - low]
                for axis, weight in zip(axes, weights, strict=True):
                    part += np.multiply(axis[low - begin : high - begin], weight, out=product)


# ---------------------------------------------------------------------- shapes
# Small tables, made on first use and kept: a simulation pickles as its parameters alone.


@lru_cache(maxsize=8)
def _background_response(simulation: SimulatedRecording) -> np.ndarray:
    """Frequency response of the background's filter: 1/sqrt(f) as a finite impulse response."""
    n_taps, frequency = simulation.n_taps, simulation.sampling_frequency
    frequencies = np.fft.rfftfreq(n_taps, 1 / frequency)
    taps = np.fft.irfft(1 / np.sqrt(np.maximum(frequencies, max(0.3, frequencies[1]))))
    taps = np.roll(taps, n_taps // 2) * np.hanning(n_taps)
    taps *= 1 / np.sqrt(np.sum(taps**2))
    return np.fft.rfft(taps, 4 * n_taps).astype(np.result_type(simulation.dtype, "complex64"))


@lru_cache(maxsize=64)
def _burst(size: int, cycles_per_sample: float, phase: float) -> np.ndarray:
    """One burst of alpha, whole, so that its values do not depend on where it is cut."""
    # in single precision, four times as fast, for both dtypes
    samples = np.arange(size, dtype=np.float32)
    envelope = 0.5 - 0.5 * np.cos(samples * np.float32(2 * np.pi / size))
    return envelope * np.cos(
        samples * np.float32(2 * np.pi * cycles_per_sample) + np.float32(phase)
    )


@lru_cache(maxsize=8)
def _blink_shape(simulation: SimulatedRecording) -> np.ndarray:
    """Lids close faster than they open."""
    position = np.linspace(0, 1, simulation.samples(_BLINK_DURATION))
    return np.sin(np.pi * position**0.7) ** 2


@lru_cache(maxsize=8)
def _beat_shapes(simulation: SimulatedRecording) -> tuple[np.ndarray, ...]:
    """ECG, then three components of the ballistocardiogram; the R peak comes at _BEAT_BEFORE."""
    before, after = simulation.samples(_BEAT_BEFORE), simulation.samples(_BEAT_AFTER)
    time = np.arange(-before, after) / simulation.sampling_frequency
    waves = [(-0.18, 0.12, 0.025), (-0.026, -0.12, 0.008), (0, 1, 0.01), (0.03, -0.22, 0.01)]
    waves += [(0.26, 0.3, 0.045)]
    ecg = sum(size * np.exp(-0.5 * ((time - at) / width) ** 2) for at, size, width in waves)
    # movement of the head with the blood: several modes, each a little later than the other
    shapes = [np.asarray(ecg)]
    for delay, frequency in ((0.19, 4.5), (0.23, 6.0), (0.3, 3.0)):
        envelope = np.exp(-0.5 * ((time - delay) / 0.09) ** 2)
        shapes.append(envelope * np.cos(2 * np.pi * frequency * (time - delay)))
    return tuple(shapes)


@lru_cache(maxsize=8)
def _weights(simulation: SimulatedRecording) -> np.ndarray:
    """What each channel picks up (channel, source) [uV]: common and own background, then sources.

    Always for all channels at once, so that a channel's weights do not depend on who else is read.
    """
    weights = []
    for number, name in enumerate(simulation.channel_names):
        draws = random_generator(simulation.seed, EegStream.CHANNELS, number, 0).standard_normal(8)
        if name == "ECG":
            weights.append([0, 0, 3.0, 0, 0, 0, _ECG, 0, 0, 0])
            continue
        x, y = _position(name, number)
        common = np.array([1.0, x + y])
        common *= _BACKGROUND * math.sqrt(0.5) / np.linalg.norm(common)
        posterior = _ALPHA * (0.1 + 0.9 / (1 + math.exp(4 * (y + 0.4))))
        central = 0.5 * _ALPHA * math.exp(-4 * (y**2 + (abs(x) - 0.4) ** 2))
        blink = _BLINK * math.exp(-2.5 * (1 - y)) if simulation.blinks else 0.0
        heart = 0.01 * _ECG * (x - 0.3)
        body = (simulation.bcg if simulation.fmri else 0.0) * np.array([x, 0.4 * y, 0.4])
        body *= 1 + 0.2 * draws[:3]
        own = _BACKGROUND * math.sqrt(0.5) * math.exp(0.1 * draws[3])
        weights.append([*common, own, posterior, central, blink, heart, *body])
    return np.array(weights, dtype=simulation.dtype)


def _position(name: str, number: int) -> tuple[float, float]:
    """Where a channel of the 10-20 system sits: right (x) and front (y) from -1 to 1."""
    match = re.fullmatch(r"([A-Za-z]+?)(z|\d+)", name)
    if match and match[1] in _ROWS:
        step = 0 if match[2] == "z" else int(match[2])
        side = (step + 1) // 2 * 0.2
        return (side if step % 2 == 0 else -side), _ROWS[match[1]]
    angle = number * 2.399963  # golden angle: spread evenly however many there are
    radius = 0.3 + 0.7 * (number * 0.618034 % 1)
    return radius * math.cos(angle), radius * math.sin(angle)
