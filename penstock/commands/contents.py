"""What is in a recording: in a few lines for people, as plain values for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.messages import shown_text

if TYPE_CHECKING:
    import xarray as xr


def describe(path: Path, ds: xr.Dataset) -> str:
    """What is in a recording, in a few lines (``penstock info``)."""
    from penstock.attributes import provenance
    from penstock.dataset import SIGNAL, events_table, sampled_index
    from penstock.memory.accounting import format_bytes
    from penstock.storage.store import large_variables
    from penstock.voxels import UNITS

    size = path.stat().st_size if path.is_file() else None
    lines = [f"{path}" + (f" ({format_bytes(size)})" if size is not None else "")]
    about = provenance(ds)
    shown = [*large_variables(ds), *about.get("results", [])]
    for name in shown:
        array = ds[name]
        shape = " × ".join(f"{n} {dim}" for dim, n in zip(array.dims, array.shape, strict=True))
        text = f"{shape}, {array.dtype}"
        index = sampled_index(ds, str(array.dims[-1])) if array.dims else None
        if index is not None:
            rate = (
                f"TR {1 / index.frequency:.6g} s"
                if "x" in array.dims
                else f"{index.frequency:g} Hz"
            )
            text += f", {rate}, {index.size / index.frequency:.6g} s"
        if array.attrs.get("units") and name != SIGNAL:
            text += f", {array.attrs['units']}"
        lines.append(f"  {name:<9} {text}")
    if SIGNAL in ds:
        # (results take attributes of their source along, which are not about their own file)
        stored_as = None if about else ds.attrs.get("stored_as")
        lines += _describe_signal(ds[SIGNAL], ds[SIGNAL].encoding.get("stored_as", stored_as))
    if "affine" in ds.coords:
        from penstock.fmri.images.images import image_affine, voxel_sizes

        sizes = voxel_sizes(image_affine(ds))
        lines.append(f"  voxels    {' × '.join(f'{size:.4g}' for size in sizes)} mm")
    if note := ds.attrs.get("repetition_time_note"):
        lines.append(f"  TR        {note}")
    for dim, size_along in ds.sizes.items():
        if dim in ds.coords and ds[dim].attrs.get("units") == UNITS:
            continue  # (voxels that are counted)
        if dim in ds.coords and ds[dim].dtype.kind in "iuf" and dim not in ("time", "channel"):
            values, units = ds[dim].values, ds[dim].attrs.get("units", "")
            span = f"{values.min():.6g} to {values.max():.6g} {units}" if size_along else ""
            lines.append(f"  {dim!s:<9} {size_along} values, {span}".rstrip())
    if "channel" in ds.coords:
        names = [str(name) for name in ds["channel"].values]
        some = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        kinds = Counter(map(str, ds["channel_type"].values)) if "channel_type" in ds else {}
        text = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        lines.append(f"  channels  {some}" + (f" ({text})" if text else ""))
    if "bad" in ds.coords and bool(ds["bad"].any()):
        lines.append(f"  bad       {', '.join(map(str, ds['channel'].values[ds['bad'].values]))}")
    table = events_table(ds)
    if len(table):
        counts = Counter(table["label"])
        some = ", ".join(f"{n} × {label!r}" for label, n in counts.most_common(8))
        lines.append(f"  events    {some}{', ...' if len(counts) > 8 else ''}")
    for label, key in (("sidecars", "sidecars"), ("noted", "sidecar_notes")):
        if ds.attrs.get(key):
            first, *others = str(ds.attrs[key]).split("; ")
            lines += [f"  {label:<9} {first}", *(f"  {'':<9} {text}" for text in others)]
    if len(ds.attrs.get("left_out", ())):
        lines.append(f"  left out  {', '.join(ds.attrs['left_out'])} (not numbers)")
    lines += [f"  missing   {link}" for link in ds.attrs.get("broken_links", ())]
    lines += [f"  left out  {what}" for what in ds.attrs.get("unreadable", ())]
    if "measurement_date" in ds.attrs:
        lines.append(f"  measured  {ds.attrs['measurement_date']}")
    if about.get("n_failed"):
        lines.append(f"  failed    {about['n_failed']} positions")
    if about.get("pipeline"):
        steps = " → ".join(s["processor"].split(".")[-1] for s in about["pipeline"])
        lines.append(f"  made by   {steps}")
    return "\n".join(map(shown_text, lines))


def _describe_signal(signal: xr.DataArray, stored_as: str | None = None) -> list[str]:
    from penstock.memory.accounting import format_bytes
    from penstock.reading import reading_of

    text = f"  in memory {format_bytes(signal.size * signal.dtype.itemsize)} as {signal.dtype}"
    if stored_as:
        text += f" (stored as {stored_as})"
    reading = reading_of(signal)
    if reading.interleaved and "time" in signal.dims:
        if "x" in signal.dims:
            text += ", stored volume by volume: the series of one voxel costs reading all of it"
        elif "channel" in signal.dims:
            text += ", channels interleaved: reading one reads the file"
    if reading.sequential:
        text += (
            "; compressed, so it is read from front to back (penstock convert makes a .zarr of it)"
        )
    lines = [text]
    for label, key in (("quantity", "long_name"), ("units", "units")):
        if signal.attrs.get(key):
            lines.append(f"  {label:<9} {signal.attrs[key]}")
    return lines


def facts(path: Path, ds: xr.Dataset) -> dict[str, Any]:
    """What is in a recording, as plain values (``penstock info --json``)."""
    from penstock.attributes import provenance
    from penstock.dataset import SIGNAL, events_table
    from penstock.reading import reading_of
    from penstock.storage.store import large_variables

    about = provenance(ds)
    found: dict[str, Any] = {
        "path": str(path),
        "bytes": path.stat().st_size if path.is_file() else None,
        "arrays": {
            str(name): _array_facts(ds[name])
            for name in (*large_variables(ds), *about.get("results", []))
        },
    }
    if SIGNAL in ds:
        signal = ds[SIGNAL]
        reading = reading_of(signal)
        stored_as = None if about else ds.attrs.get("stored_as")
        found["arrays"].setdefault(SIGNAL, _array_facts(signal)).update(
            {
                "stored_as": signal.encoding.get("stored_as", stored_as),
                "interleaved": reading.interleaved,
                "front_to_back": reading.sequential,
            }
        )
    if "affine" in ds.coords:
        from penstock.fmri.images.images import image_affine, voxel_sizes

        found["voxel_sizes"] = [float(size) for size in voxel_sizes(image_affine(ds))]
    found["dims"] = {
        str(dim): {
            "size": size,
            "first": ds[dim].values[0].item() if size else None,
            "last": ds[dim].values[-1].item() if size else None,
            "units": ds[dim].attrs.get("units"),
        }
        for dim, size in ds.sizes.items()
        if dim in ds.coords and ds[dim].dtype.kind in "iuf" and dim not in ("time", "channel")
    }
    if "channel" in ds.coords:
        found["channels"] = list(_channel_facts(ds))
    found["events"] = {str(key): n for key, n in Counter(events_table(ds)["label"]).items()}
    for key in ("sidecars", "sidecar_notes", "measurement_date", "repetition_time_note"):
        if ds.attrs.get(key):
            found[key] = str(ds.attrs[key])
    for key in ("left_out", "broken_links", "unreadable"):
        found[key] = [str(text) for text in ds.attrs.get(key, ())]
    found["pipeline"] = about.get("pipeline", [])
    found["failed_positions"] = about.get("n_failed", 0)
    return found


def _array_facts(array: xr.DataArray) -> dict[str, Any]:
    from penstock.dataset import sampled_index

    told: dict[str, Any] = {
        "dims": {str(dim): n for dim, n in array.sizes.items()},
        "dtype": str(array.dtype),
        "bytes": array.size * array.dtype.itemsize,
        "quantity": array.attrs.get("long_name"),
        "units": array.attrs.get("units"),
    }
    index = sampled_index(array, str(array.dims[-1])) if array.dims else None
    if index is not None:
        told["sampling_frequency"] = float(index.frequency)
        told["seconds"] = index.size / index.frequency
    return told


def _channel_facts(ds: xr.Dataset) -> Iterator[dict[str, Any]]:
    """Name, type, unit and state of every channel, as far as they are known."""
    about = {"type": "channel_type", "unit": "channel_unit", "bad": "bad"}
    columns = {key: ds[name].values for key, name in about.items() if name in ds}
    for number, name in enumerate(ds["channel"].values):
        yield {"name": str(name)} | {
            key: bool(values[number]) if key == "bad" else str(values[number])
            for key, values in columns.items()
        }
