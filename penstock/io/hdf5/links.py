"""Names inside HDF5 files, and where they lead: within the file's own folder only.

A file can point to others: by external links, by virtual datasets, by raw values kept outside of
it. A file from a stranger could so make a program read, and pass on, whatever its user may read.
Here every such path must end in the folder of the file that was opened (or in one that the user
names), symbolic links resolved; and every one must be there, because the HDF5 library gives fill
values for what it does not find.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import operator
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import h5py

from penstock.io.hdf5.chunks import check_chunks
from penstock.io.hdf5.files import check_filters, open_file
from penstock.io.hdf5.stored_types import unknown_type
from penstock.memory.accounting import MIB, format_bytes

DESCRIPTION_BYTES = 1024 * MIB
"""Most that is read to describe a dataset [bytes]: values along its axes, tables of positions."""

MOST_LINKS = 16
"""Links that one name may lead through, as in the HDF5 library: more are a loop."""

HIDDEN = frozenset({"#refs#", "#subsystem#"})
"""Groups in which MATLAB keeps what its cells and objects refer to."""

_ELEMENT = re.compile(r"(.*[^/])\{(\d+)\}")
"""``cell{3}``: an entry of a dataset of references, counted from 1 in the order of the file."""


class LinkError(ValueError):
    """A name in a file leads to nothing that can be read; says to what, and what to do."""


class UnknownTypeError(LinkError):
    """A name in a file leads to a dataset of a type that NumPy does not know."""


@dataclass
class Tree:
    """An open HDF5 file, and the files that its links lead to.

    Parameters
    ----------
    path : str
        The file that the user has opened.
    file : h5py.File
        Open for reading; closed by whoever opened it.
    within : str, optional
        Folder in which other files may lie. Default: that of the file.
    """

    path: str
    file: h5py.File
    within: str | None = None
    broken: list[str] = field(default_factory=list)
    """What is wrong with links that a walk through the file could not follow."""
    unreadable: list[str] = field(default_factory=list)
    """What a walk through the file has left out, because NumPy does not know its type."""
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _files: dict[str, h5py.File] = field(default_factory=dict)
    _checked: set[tuple[str, str]] = field(default_factory=set)

    def close(self) -> None:
        """Close the files that links have led to."""
        self._stack.close()

    # ------------------------------------------------------------------ names

    def get(self, name: str) -> h5py.Dataset | h5py.Group | None:
        """What has a name, or None.

        Raises
        ------
        LinkError
            If a link on the way leads out of the folder, to nothing, or in a circle, or if NumPy
            does not know the type of what is there.
        """
        found = self._walk(self.file, name, 0)
        element = _ELEMENT.fullmatch(name) if found is None else None
        if element is not None:
            cells = self._walk(self.file, element[1], 0)
            if isinstance(cells, h5py.Dataset) and is_references(cells):
                found = self._element(cells, int(element[2]))
        problem = unknown_type(found) if isinstance(found, h5py.Dataset) else None
        if problem is not None:
            raise UnknownTypeError(problem)
        return found

    def dataset(self, name: str) -> h5py.Dataset | None:
        """The dataset of a name, or None."""
        found = self.get(name)
        return found if isinstance(found, h5py.Dataset) else None

    def _element(self, cells: h5py.Dataset, number: int) -> h5py.Dataset | h5py.Group | None:
        references = read_all(self, cells).reshape(-1)
        if not 1 <= number <= len(references) or not references[number - 1]:
            return None
        with contextlib.suppress(OSError, RuntimeError, KeyError, ValueError):
            target = cells.file[references[number - 1]]
            return _named(target)
        return None

    def _walk(self, group: h5py.Group, name: str, links: int) -> Any:
        """Follow a name step by step, so that the HDF5 library follows no link by itself."""
        item: Any = group.file["/"] if name.startswith("/") else group
        parts = [part for part in name.split("/") if part not in ("", ".")]
        for at, part in enumerate(parts):
            if not isinstance(item, h5py.Group):
                return None
            try:
                link = item.get(part, getlink=True)
            except (OSError, RuntimeError, KeyError, ValueError):
                return None
            if link is None:
                return None
            if isinstance(link, h5py.SoftLink | h5py.ExternalLink):
                if links >= MOST_LINKS:
                    raise LinkError(
                        f"{_joined(item, part)} of {self.path} leads through more than "
                        f"{MOST_LINKS} links: they go in a circle; name another dataset"
                    )
                item, links = self._follow(item, part, link, links), links + 1
            else:
                item = _opened_object(item, part)
            if item is None and at < len(parts) - 1:
                return None
        return item

    def _follow(self, group: h5py.Group, name: str, link: Any, links: int) -> Any:
        what = f"{_joined(group, name)} of {group.file.filename}"
        start = group
        if isinstance(link, h5py.ExternalLink):
            other = self.beside(group.file.filename, os.fsdecode(link.filename), "EXT", what)
            start = self._open(other, what)
        item = self._walk(start, link.path, links + 1)
        if item is None:
            where = f" of {start.file.filename}" if start is not group else ""
            raise LinkError(
                f"{what} is a link to {link.path}{where}, which is not there: name another dataset"
            )
        return item

    def _open(self, path: str, what: str) -> h5py.File:
        real = os.path.realpath(path)
        if real == os.path.realpath(self.file.filename):
            return self.file
        if real not in self._files:
            try:
                self._files[real] = self._stack.enter_context(open_file(path))
            except (OSError, ValueError) as error:
                raise LinkError(f"{what} leads to another file: {error}") from error
        return self._files[real]

    # ------------------------------------------------------------------ files

    def beside(self, home: str, name: str, kind: str, what: str) -> str:
        """The file that a path inside `home` stands for, found as the HDF5 library finds it.

        ``kind`` is that of the prefix which HDF5 takes from the environment: EXT, VDS or EXTFILE.
        """
        folder = os.path.dirname(os.path.abspath(home))
        prefixes = os.environ.get(f"HDF5_{kind}_PREFIX", "").split(":")
        prefixes = [p.replace("${ORIGIN}", folder) for p in prefixes if p]
        places = [name] if os.path.isabs(name) else []
        last = os.path.basename(name) if os.path.isabs(name) else name
        if not places or kind != "EXTFILE":
            real = os.path.dirname(os.path.realpath(home))
            # (the library's last resort is the working directory, which is never meant)
            places += [os.path.join(p, last) for p in [*prefixes, folder, os.getcwd(), real]]
        for place in places:
            if os.path.exists(place):
                self._check_inside(place, prefixes, what, name)
                return os.path.abspath(place)
        raise LinkError(
            f"{what} leads to {name}, which is not there: put that file into the folder of "
            f"{os.path.basename(self.path)}, or choose another dataset"
        )

    def _check_inside(self, place: str, prefixes: list[str], what: str, name: str) -> None:
        if self.within is not None:
            allowed = [os.path.abspath(os.path.expanduser(self.within))]
        else:
            allowed = [os.path.dirname(p) for p in (self.path, os.path.realpath(self.path))]
        real = os.path.realpath(place)
        for folder in [*allowed, *prefixes]:
            if os.path.commonpath([os.path.realpath(folder), real]) == os.path.realpath(folder):
                return
        raise LinkError(
            f"{what} leads to {name}, outside of the folder {allowed[0]}: it is not followed "
            "unless links_within= names a folder that holds both"
        )

    # ------------------------------------------------------------------ storage

    def check_storage(self, dataset: h5py.Dataset) -> tuple[str, ...]:
        """Files beside its own that a dataset has its values in; all are there, in the folder.

        Raises
        ------
        LinkError
            If one is missing, too short, or out of the folder.
        """
        found: dict[str, None] = {}
        self._collect(dataset, found)
        return tuple(found)

    def _collect(self, dataset: h5py.Dataset, found: dict[str, None]) -> None:
        home = os.path.abspath(dataset.file.filename)
        key = (os.path.realpath(home), dataset.name or "")
        if key in self._checked:
            return
        self._checked.add(key)
        creation = dataset.id.get_create_plist()
        what = f"{dataset.name} of {home}"
        if creation.get_layout() == h5py.h5d.VIRTUAL:
            for source in _sources(creation):
                self._collect_source(source, home, what, found)
        elif creation.get_external_count():
            remaining = math.prod(dataset.shape) * dataset.id.get_type().get_size()
            for i in range(creation.get_external_count()):
                name, offset, size = creation.get_external(i)
                path = self.beside(home, os.fsdecode(name), "EXTFILE", what)
                needed = min(remaining, size)
                if os.path.getsize(path) < offset + needed:
                    raise LinkError(
                        f"{what} has its values in {path}, which is cut short: it holds "
                        f"{os.path.getsize(path)} bytes of {offset + needed}; copy it again"
                    )
                remaining -= needed
                found[path] = None

    def _collect_source(
        self, source: _Source, home: str, what: str, found: dict[str, None]
    ) -> None:
        numbers: Iterator[int | None] = iter([None])
        if "%b" in source.file or "%b" in source.name:  # (one for every block, as many as are)
            numbers = itertools.count()
        for number in numbers:
            file, name = (_numbered(text, number) for text in (source.file, source.name))
            with self._returning():
                try:
                    path = home if file == "." else self.beside(home, file, "VDS", what)
                    item = self._walk(self._open(path, what), name, 0)
                    if not isinstance(item, h5py.Dataset):
                        raise LinkError(
                            f"{what} has its values in {name} of {path}, which is not there: "
                            "write or copy it again, or choose another dataset"
                        )
                except LinkError:
                    if number:  # (the blocks before it are there)
                        return
                    raise
                if number is None and source.is_short(item.shape):
                    raise LinkError(
                        f"{what} has its values in {name} of {path}, which has the shape "
                        f"{item.shape} and not all of them: write or copy it again"
                    )
                if os.path.realpath(path) != os.path.realpath(self.file.filename):
                    found[path] = None
                self._collect(item, found)

    @contextlib.contextmanager
    def _returning(self) -> Iterator[None]:
        """Close the files opened inside: a dataset may have its values in thousands of them."""
        before = set(self._files)
        try:
            yield
        finally:
            for real in set(self._files) - before:
                self._files.pop(real).close()

    # ------------------------------------------------------------------ everything

    def datasets(self) -> Iterator[tuple[str, h5py.Dataset]]:
        """All datasets by their full names, each once; also those that external links lead to.

        Links that cannot be followed are in `broken` afterwards, datasets of types that NumPy
        does not know in `unreadable`.
        """
        self.broken.clear()
        self.unreadable.clear()
        seen = {_identity(self.file["/"])}
        yield from self._visit("", self.file["/"], seen)

    def _visit(
        self, prefix: str, group: h5py.Group, seen: set[Any]
    ) -> Iterator[tuple[str, h5py.Dataset]]:
        for part in group:
            if not prefix and part in HIDDEN:
                continue
            name = f"{prefix}/{part}"
            with self._returning():
                yield from self._visit_one(name, group, part, seen)

    def _visit_one(
        self, name: str, group: h5py.Group, part: str, seen: set[Any]
    ) -> Iterator[tuple[str, h5py.Dataset]]:
        try:
            link = group.get(part, getlink=True)
            item = self._walk(group, part, 0)
        except LinkError as error:
            self.broken.append(str(error))
            return
        except (OSError, RuntimeError, KeyError, TypeError, ValueError):
            return
        # (what a soft link leads to in its own file is found there)
        if item is None or (isinstance(link, h5py.SoftLink) and item.file == group.file):
            return
        identity = _identity(item)
        if identity in seen:
            return
        seen.add(identity)
        if isinstance(item, h5py.Dataset):
            problem = unknown_type(item)
            if problem is not None:
                self.unreadable.append(problem)
                return
            yield name, item
            if is_references(item):
                yield from self._elements(name, item, seen)
        elif isinstance(item, h5py.Group):
            yield from self._visit(name, item, seen)

    def _elements(
        self, name: str, cells: h5py.Dataset, seen: set[Any]
    ) -> Iterator[tuple[str, h5py.Dataset]]:
        """What the entries of a cell array of MATLAB are."""
        if "MATLAB_class" not in cells.attrs or cells.size > MOST_ELEMENTS:
            return
        for number in range(1, cells.size + 1):
            item = self._element(cells, number)
            if isinstance(item, h5py.Dataset) and _identity(item) not in seen:
                seen.add(_identity(item))
                if unknown_type(item) is None:
                    yield f"{name}{{{number}}}", item


MOST_ELEMENTS = 1000
"""Entries of a cell array that are looked at."""


@dataclass(frozen=True)
class _Source:
    file: str
    name: str
    needed: tuple[int, ...] | None
    """How long the axes of the source must be at least, where that is known."""
    size: int | None
    """How many values the source must have, where all of them are mapped."""

    def is_short(self, shape: tuple[int, ...]) -> bool:
        """Whether a dataset of that shape lacks some of what is mapped."""
        if self.needed is None:
            return self.size is not None and self.size != math.prod(shape)
        return len(self.needed) != len(shape) or any(map(operator.gt, self.needed, shape))


def _sources(creation: Any) -> Iterator[_Source]:
    found: dict[tuple[str, str], _Source] = {}
    for i in range(creation.get_virtual_count()):
        needed, size = None, None
        try:
            last = creation.get_virtual_srcspace(i).get_select_bounds()[1]
            # (a selection without end says nothing of the length)
            if max(last, default=0) < 1 << 62:
                needed = tuple(int(n) + 1 for n in last)
        except (OSError, RuntimeError, ValueError):
            # (all of the source, whatever that is)
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                mapped = creation.get_virtual_vspace(i).get_select_npoints()
                size = mapped if mapped < 1 << 62 else None
        key = (creation.get_virtual_filename(i), creation.get_virtual_dsetname(i))
        before = found.get(key)
        if before is not None and before.needed and needed and len(needed) == len(before.needed):
            needed = tuple(map(max, needed, before.needed))
        found[key] = _Source(*key, needed, size)
    yield from found.values()


def _numbered(text: str, number: int | None) -> str:
    if number is None:
        return text.replace("%%", "%")
    return text.replace("%%", "\0").replace("%b", str(number)).replace("\0", "%")


def _joined(group: h5py.Group, name: str) -> str:
    return f"{(group.name or '').rstrip('/')}/{name}"


def _identity(item: Any) -> tuple[int, int]:
    about = h5py.h5o.get_info(item.id)
    return about.fileno, about.addr


def _named(item: Any) -> Any:
    """What a reference leads to, if it has a name to find it by again."""
    return item if item.name else None


def _opened_object(group: h5py.Group, name: str) -> Any:
    """An object by a link that is none to elsewhere."""
    try:
        return group[name]
    except (OSError, RuntimeError, KeyError, TypeError, ValueError):
        return None


def reopened(dataset: h5py.Dataset) -> h5py.Dataset:
    """The dataset, with raw values beside the file taken from the file's folder.

    (HDF5 looks for them in the working directory.) It must not be open anywhere else.
    """
    if not dataset.id.get_create_plist().get_external_count():
        return dataset
    folder = os.path.dirname(os.path.abspath(dataset.file.filename))
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_efile_prefix(os.fsencode(folder))
    file, name = dataset.file, dataset.name
    # (as long as it is open, HDF5 gives the same dataset again, with the folder it began with)
    dataset.id.close()
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))


def is_references(dataset: h5py.Dataset) -> bool:
    """Whether a dataset holds references to others, as the cells of MATLAB do."""
    known = unknown_type(dataset) is None
    return known and h5py.check_ref_dtype(dataset.dtype) is h5py.Reference


def read_all(tree: Tree, dataset: h5py.Dataset) -> Any:
    """All values of a small dataset, such as those along an axis."""
    tree.check_storage(dataset)
    check_filters(dataset)
    if dataset.id.get_create_plist().get_external_count():
        raise LinkError(
            f"{dataset.name} of {dataset.file.filename} describes others and has its values in "
            "files of their own, which is not read: copy them into the file"
        )
    n_bytes = dataset.size * dataset.id.get_type().get_size()
    if n_bytes > DESCRIPTION_BYTES:
        raise LinkError(
            f"{dataset.name} of {dataset.file.filename} describes others and takes "
            f"{format_bytes(n_bytes)}, more than is read for that: choose a dataset by its name"
        )
    check_chunks(dataset, tuple(slice(0, n) for n in dataset.shape))
    return dataset[...]


def other_files(path: str) -> tuple[str, ...]:
    """Files that a file's links, virtual datasets and external storage lead to, in its folder.

    Those that are missing, or out of the folder, are left out; so is everything if the file is
    none of HDF5.
    """
    stat = os.stat(path)
    return _other_files(path, (stat.st_mtime_ns, stat.st_size))


@functools.lru_cache(maxsize=256)
def _other_files(path: str, version: tuple[int, int]) -> tuple[str, ...]:
    found: set[str] = set()
    with contextlib.suppress(OSError, ValueError), open_tree(path) as tree:
        for _, dataset in tree.datasets():
            found.add(os.path.abspath(dataset.file.filename))
            with contextlib.suppress(LinkError):
                found.update(tree.check_storage(dataset))
    own = os.path.realpath(path)
    return tuple(sorted(other for other in found if os.path.realpath(other) != own))


@contextlib.contextmanager
def open_tree(path: str, within: str | None = None) -> Iterator[Tree]:
    """An HDF5 file with what its links lead to, for reading."""
    with open_file(path) as file:
        tree = Tree(path, file, within)
        try:
            yield tree
        finally:
            tree.close()
