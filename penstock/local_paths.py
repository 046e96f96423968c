"""Paths that people give: absolute, ``~`` expanded, on a file system that is mounted here."""

from __future__ import annotations

import os
import re

_REMOTE = re.compile(r"(?:[a-z][a-z0-9+.-]*::)*([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
# (pathlib makes one slash of two)
_COLLAPSED = re.compile(r"(s3|s3a|gs|gcs|https?|ftp|sftp|ssh|az|abfs|adl|hdfs|file):/(?!/)", re.I)


class RemotePathError(ValueError):
    """A path of a store or server that is not mounted as a folder."""


def check_local(path: str | os.PathLike[str]) -> None:
    """Raise a RemotePathError for ``s3://``, ``https://`` and the like.

    Examples
    --------
    >>> from penstock.local_paths import check_local
    >>> check_local("data/s1.edf")
    >>> check_local("s3://bucket/s1.edf")
    Traceback (most recent call last):
    penstock.local_paths.RemotePathError: s3://bucket/s1.edf: s3:// paths are not supported yet: ...
    """
    text = os.fspath(path)
    match = _REMOTE.match(text) or _COLLAPSED.match(text)
    if match is None or os.path.exists(text):
        return
    scheme = match[1].lower()
    shown = text if "://" in text else text.replace(":/", "://", 1)
    if scheme == "file":
        raise RemotePathError(f"{shown}: give the path itself, without file://")
    raise RemotePathError(
        f"{shown}: {scheme}:// paths are not supported yet: copy it to a local disk, or mount it "
        "as a folder, and give that path"
    )


def local_path(path: str | os.PathLike[str]) -> str:
    """The absolute path that somebody means, ``~`` expanded, without a slash at its end.

    Raises
    ------
    RemotePathError
        If it is the address of something that is not on a file system of this machine.
    """
    check_local(path)
    return os.path.abspath(os.path.expanduser(os.fspath(path)))


def not_there(path: str) -> str:
    """One sentence about a path at which there is nothing."""
    if os.path.islink(path):
        return (
            f"{path} is a link to a file that is not there: get the file (datalad get, git annex "
            "get), or mend the link"
        )
    return f"no such file: {path}; check the path for typing errors"
