"""How recordings are read, as options that every command with recordings has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from penstock.commands.options import with_options
from penstock.plain_values import from_yaml

_GROUP = "How recordings are read"


def _option(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_GROUP)


def _choice(help: str) -> Any:
    return typer.Option(help=help, rich_help_panel="Which images of a run")


def _taken(
    dataset: Annotated[
        str | None,
        _option("Which dataset of files that hold several (h5USID, NSID, HDF5, npz)."),
    ] = None,
    dims: Annotated[
        str | None,
        _option("Names of the dims of plain arrays, e.g. y,x,frequency (HDF5, npy, npz)."),
    ] = None,
    rate: Annotated[
        float | None,
        _option("Sampling frequency [Hz] of the channels that are the recording, of several."),
    ] = None,
    gaps: Annotated[
        str | None,
        _option("Interrupted recordings (EDF+D): raise, or join their pieces and mark the seams."),
    ] = None,
    channel_types: Annotated[
        list[str] | None,
        _option("Types of channels: EMG1=emg,X2=misc (repeat).", "--channel-types"),
    ] = None,
    bads: Annotated[
        list[str] | None, _option("Channels to mark as bad, by name: T7,T8 (repeat).", "--bads")
    ] = None,
    stim_mask: Annotated[
        str | None,
        _option("Bits of a BDF status channel to keep: 255, 0xFFFF, or none for all."),
    ] = None,
    sidecars: Annotated[
        bool, _option("Use the BIDS files beside recordings (channels.tsv, events.tsv, ...).")
    ] = True,
    engine: Annotated[
        str | None, _option("Reader to use instead of the one that the file asks for.")
    ] = None,
    open: Annotated[
        list[str] | None,
        _option("Any other option of the reader: KEY=VALUE, the value as in YAML (repeat)."),
    ] = None,
) -> dict[str, Any]:
    """Options of `penstock.open_dataset`, of what was given on the command line."""
    options: dict[str, Any] = {
        "dataset": dataset,
        "dims": tuple(dims.split(",")) if dims else None,
        "rate": rate,
        "gaps": gaps,
        "channel_types": dict(map(_typed, _listed(channel_types))) or None,
        "bads": _listed(bads) or None,
        "sidecars": None if sidecars else False,
        "engine": engine,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if stim_mask is not None:
        options["stim_mask"] = _mask(stim_mask)
    for text in open or ():
        name, value = _named_value(text)
        if name in options:
            raise ValueError(f"--open {text}: {name} is given already")
        options[name] = value
    return options


def reads_recordings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `_taken`; it gets them as one mapping, ``reading``."""
    return with_options(command, _taken, "reading")


def _chosen(
    space: Annotated[
        str | None,
        _choice("Images of this space, where a run has several: a name of one, func, or all."),
    ] = None,
    res: Annotated[str | None, _choice("Of this resolution (BIDS: res-...).")] = None,
    desc: Annotated[
        str | None, _choice("Of this step of processing (default: preproc, where there is one).")
    ] = None,
    echo: Annotated[str | None, _choice("Of this echo.")] = None,
) -> dict[str, str]:
    """What images of a run are meant (see `penstock.io.bids.choice`)."""
    given = {"space": space, "res": res, "desc": desc, "echo": echo}
    return {name: value for name, value in given.items() if value is not None}


def chooses_images(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `_chosen`; it gets them as one mapping, ``select``."""
    return with_options(command, _chosen, "select")


def _listed(texts: list[str] | None) -> list[str]:
    return [part.strip() for text in texts or () for part in text.split(",") if part.strip()]


def _typed(text: str) -> tuple[str, str]:
    name, equals, kind = text.rpartition("=")
    if not equals or not name.strip() or not kind.strip():
        raise ValueError(f"--channel-types {text}: write NAME=TYPE, for example EMG1=emg")
    return name.strip(), kind.strip()


def _mask(text: str) -> int | None:
    if text.lower() == "none":
        return None
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"--stim-mask {text}: write a number (255, 0xFFFF) or none") from None


def _named_value(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"--open {text}: write KEY=VALUE, for example preload=true")
    try:
        return name, from_yaml(value)
    except ValueError:
        raise ValueError(f"--open {text}: the value is not YAML") from None
