"""From one data set's labels to another's: a YAML file of groups, each new label the maximum over its group."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import yaml

from featurestore.errors import UsageError

LabelMap = dict[str, tuple[str, ...]]
"""{new label: labels it is the maximum of}, in the order of the file."""
_SHIPPED = files("classifiers").joinpath("label_maps")


def shipped_maps() -> list[str]:
    """Return the names of the maps that come with the package."""
    return sorted(Path(str(file)).stem for file in _SHIPPED.iterdir() if str(file).endswith(".yaml"))


def read_label_map(name_or_path: str) -> LabelMap:
    """Read a shipped map, or a YAML file such as ``Pleura: [Pleural Effusion, Pleural Other]``.

    Raises
    ------
    UsageError
        If there is none, or it is no mapping of labels to lists of labels.
    """
    document = _read(name_or_path)
    if not isinstance(document, dict) or not document or not all(_is_group(*item) for item in document.items()):
        raise UsageError(
            f"label map {name_or_path!r}: expected lines such as 'Pleura: [Pleural Effusion, Pleural Other]', each new "
            "label with the list of labels it is made of"
        )
    return {name: tuple(members) for name, members in document.items()}


def made_of(label: str, groups: Mapping[str, Sequence[str]], offered: Collection[str]) -> tuple[str, ...]:
    """Return what a label is the maximum of, among what a data set or a network offers.

    Its group's members, as far as they are offered; else the label itself; else nothing.
    """
    members = tuple(member for member in groups.get(label, ()) if member in offered)
    return members or ((label,) if label in offered else ())


def _read(name_or_path: str) -> object:
    try:
        if name_or_path in shipped_maps():
            return yaml.safe_load(_SHIPPED.joinpath(f"{name_or_path}.yaml").read_text("utf-8"))
        return yaml.safe_load(Path(name_or_path).read_text("utf-8"))
    except OSError as error:
        raise UsageError(
            f"label map {name_or_path!r}: neither one of {', '.join(shipped_maps())} nor a file that can be read "
            f"({error.strerror})"
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"label map {name_or_path!r} is not YAML: {' '.join(str(error).split())}") from error


def _is_group(name: object, members: object) -> bool:
    return isinstance(name, str) and isinstance(members, list) and bool(members) and all(_is_text(m) for m in members)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)
