"""What an HDF5 file must not contain, checked before any pixel is read.

External storage, external links and virtual datasets make the reader open other files of
the server: a frame could show /etc/passwd as an image.
"""

# Border to a library without types: what comes from it is typed where it leaves this module.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Iterator

import h5py

from emcopilot.errors import DecodeError
from emcopilot.formats.page import Source

FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 6: "scale-offset",
           32000: "lzf"}  # fmt: skip
"""Filters compiled into HDF5 and h5py; any other would need a plug-in."""
MAX_OBJECTS = 100_000
MAX_METADATA_BYTES = 256 * 2**20


def check_hdf5(source: Source) -> tuple[str, ...]:
    """Refuse files that reach outside themselves; name the spectra that they hold.

    Returns
    -------
    tuple of str
        One line for each kind of data that EMcopilot leaves out.

    Raises
    ------
    DecodeError
        On external storage, an external link, a virtual dataset, an unknown filter, or
        more objects than any microscope writes.
    """
    with h5py.File(source.path, "r") as file:
        to_visit: list[h5py.Group] = [file]
        visited: set[object] = set()  # hard links may go in circles
        seen = 0
        while to_visit:
            group = to_visit.pop()
            seen += len(group)
            if seen > MAX_OBJECTS:
                raise DecodeError(f"{source.name}: more than {MAX_OBJECTS} objects")
            for name, item in _members(source, group):
                if isinstance(item, h5py.Dataset):
                    _check_dataset(source, name, item)
                elif isinstance(item, h5py.Group) and item.id not in visited:
                    visited.add(item.id)
                    to_visit.append(item)
        return _left_out(file)


def _members(source: Source, group: h5py.Group) -> Iterator[tuple[str, object]]:
    for name in list[str](group):
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise DecodeError(_outside(source, name, "an external link"))
        # A soft link's target is reached by its own name.
        if not isinstance(link, h5py.SoftLink):
            yield name, group[name]


def _check_dataset(source: Source, name: str, data: h5py.Dataset) -> None:
    if data.is_virtual:
        raise DecodeError(_outside(source, name, "a virtual dataset"))
    if data.external:
        raise DecodeError(_outside(source, name, "external storage"))
    settings = data.id.get_create_plist()
    for number in range(settings.get_nfilters()):
        code = settings.get_filter(number)[0]
        if code not in FILTERS:
            raise DecodeError(
                f"{source.name}: {name!r} is packed with HDF5 filter {code}, which is "
                "not built in; save it with gzip or without compression"
            )
    if name == "Metadata" and data.nbytes > MAX_METADATA_BYTES:
        raise DecodeError(f"{source.name}: {data.nbytes} bytes of metadata in {name!r}")


def _outside(source: Source, name: str, what: str) -> str:
    return (
        f"{source.name}: {name!r} is {what}, so its pixels lie in another file; "
        "save one self-contained file"
    )


def _left_out(file: h5py.File) -> tuple[str, ...]:
    data = file.get("Data")
    if not isinstance(data, h5py.Group):
        return ()
    kinds = {"SpectrumImage": "spectrum image", "SpectrumStream": "spectrum stream",
             "Spectrum": "spectrum"}  # fmt: skip
    return tuple(
        f"{len(group)} x {kind}, left out"
        for key, kind in kinds.items()
        if isinstance(group := data.get(key), h5py.Group) and len(group)
    )
