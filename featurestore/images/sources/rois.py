"""Regions of interest from `--rois FILE|DIR`: COCO or CheXlocalize JSON, or a folder of mask PNGs."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from featurestore.errors import ImageRejected, UsageError
from featurestore.images.decode import read_image
from featurestore.images.records import ImageRecord, Reject, Roi, Source
from featurestore.images.sources.paths import normal_key
from featurestore.images.sources.roi_geometry import encode_mask, fault_of, to_mask

__all__ = ["RoiFile", "WithRois", "encode_mask", "read_rois", "to_mask"]

_EXPECTED = "COCO or CheXlocalize JSON, or a folder of masks LABEL/IMAGE.png or IMAGE__LABEL.png"


@dataclass
class RoiFile:
    """What a file (or folder) of regions holds.

    Parameters
    ----------
    path : Path
    by_image : dict of str to list of Roi
        By the image's name as the file gives it: a relative path, a file name, a stem, or CheXlocalize's
        ``patient64541_study1_view1_frontal``.
    rejects : list of Reject
        Regions that cannot be used, stage ``roi``.
    """

    path: Path
    by_image: dict[str, list[Roi]] = field(default_factory=lambda: defaultdict(list))
    rejects: list[Reject] = field(default_factory=list)

    def add(self, image: str, roi: Roi) -> None:
        """Keep a region, or a reject where it does not fit its frame or has no area."""
        if fault := fault_of(roi):
            self.reject(image, fault)
        else:
            self.by_image[normal_key(image)].append(roi)

    def reject(self, image: str, reason: str) -> None:
        """Note a region that cannot be used."""
        self.rejects.append(Reject(str(self.path), image, "roi", reason))


class WithRois:
    """A source whose records carry the regions of a `RoiFile` beside their own.

    Records are matched by source key, file name, stem and CheXlocalize's joined name. A name that fits several images
    is rejected rather than guessed, hence the pass over the source before the first record.

    Parameters
    ----------
    source : featurestore.images.records.Source
    regions : RoiFile
    """

    def __init__(self, source: Source, regions: RoiFile) -> None:
        self.name = source.name
        self._source, self._regions = source, regions

    def count(self) -> int | None:
        """Return the wrapped source's count."""
        return self._source.count()

    def records(self) -> Iterator[ImageRecord | Reject]:
        """Yield the wrapped source's records with their regions, then a reject for each region left over."""
        known = self._regions.by_image
        fitting = self._fitting()
        matches = Counter({name: len(images) for name, images in fitting.items()})
        for item in self._source.records():
            if isinstance(item, ImageRecord):
                names = (name for name in _names(item.source_key) if matches[name] == 1)
                yield replace(item, rois=item.rois + tuple(roi for name in names for roi in known.get(name, ())))
            else:
                yield item
        for reject in [*self._regions.rejects, *self._left_over(matches)]:
            yield _with_owner(reject, fitting.get(normal_key(reject.source_key), []))

    def _fitting(self) -> dict[str, list[ImageRecord]]:
        """Return the images, without labels and regions, that each name of the file fits."""
        wanted = self._regions.by_image.keys() | {normal_key(reject.source_key) for reject in self._regions.rejects}
        fitting: dict[str, list[ImageRecord]] = defaultdict(list)
        for item in self._source.records():
            if isinstance(item, ImageRecord):
                for name in _names(item.source_key).keys() & wanted:
                    fitting[name].append(ImageRecord(item.source_key, item.uri, item.patient_id))
        return fitting

    def _left_over(self, matches: Counter[str]) -> Iterator[Reject]:
        for name, rois in self._regions.by_image.items():
            if matches[name] != 1:
                found = f"fits {matches[name]} images" if matches[name] else "no such image"
                labels = ", ".join(sorted({roi.label for roi in rois}))
                reason = f"{found}: {name!r} ({len(rois)} regions: {labels}); expected the image's path or file name"
                yield Reject(str(self._regions.path), name, "roi", reason)


def _with_owner(reject: Reject, images: list[ImageRecord]) -> Reject:
    """Say which image a region is of, and whose, where its name tells: `cxr forget` searches keys and patients."""
    if len(images) == 1:
        return replace(reject, source_key=images[0].source_key, patient_id=images[0].patient_id)
    people = {image.patient_id for image in images}
    return replace(reject, patient_id=people.pop()) if len(people) == 1 else reject


def _names(source_key: str) -> dict[str, None]:
    """Return the names an image answers to, each once, in order."""
    path = PurePosixPath(source_key)
    joined = "_".join((*path.parts[-3:-1], path.stem))
    return dict.fromkeys((source_key, str(path.with_suffix("")), path.name, path.stem, joined))


def read_rois(path: Path) -> RoiFile:
    """Read regions of interest.

    Parameters
    ----------
    path : Path
        A ``.json`` (COCO: ``images, annotations, categories``; CheXlocalize: polygons with ``img_size``, or run
        lengths by label) or a folder of masks, ``LABEL/IMAGE.png`` in subfolders or ``IMAGE__LABEL.png`` directly in
        it, where every pixel above 0 belongs to the region.

    Returns
    -------
    RoiFile

    Raises
    ------
    featurestore.errors.UsageError
        Where nothing is there, or it is none of these.
    """
    regions = RoiFile(path.absolute())
    if path.is_dir():
        _read_masks(path, regions)
        return regions
    document = _load(path)
    if isinstance(document, dict) and isinstance(document.get("annotations"), list):
        _read_coco(document, regions)
    elif isinstance(document, dict) and all(isinstance(entry, dict) for entry in document.values()):
        _read_chexlocalize(document, regions)
    else:
        raise UsageError(f"{path} is JSON, but neither COCO nor CheXlocalize; expected {_EXPECTED}")
    return regions


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {path}; expected {_EXPECTED}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as JSON ({error}); expected {_EXPECTED}") from error


def _read_coco(document: dict[str, Any], regions: RoiFile) -> None:
    try:
        images = {image["id"]: image for image in document["images"]}
        categories = {category["id"]: str(category["name"]) for category in document["categories"]}
    except (KeyError, TypeError) as error:
        raise UsageError(f"{regions.path} is not COCO: images need id, categories id and name ({error!r})") from error
    for number, annotation in enumerate(document["annotations"]):
        try:
            image = images[annotation["image_id"]]
            kind, geometry = _coco_geometry(annotation)
            label, source = categories[annotation["category_id"]], regions.path.name
            roi = Roi(label, kind, json.dumps(geometry), int(image["width"]), int(image["height"]), source)
            regions.add(str(image["file_name"]), roi)
        except (KeyError, TypeError, ValueError) as error:
            regions.reject("", f"annotation {number} is incomplete or names an unknown image or category: {error!r}")


def _coco_geometry(annotation: dict[str, Any]) -> tuple[str, Any]:
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        return "rle", {"size": segmentation["size"], "counts": segmentation["counts"]}
    return ("polygon", segmentation) if segmentation else ("box", annotation["bbox"])


def _read_chexlocalize(document: dict[str, Any], regions: RoiFile) -> None:
    for image, entry in document.items():
        size = entry.get("img_size")
        for label, shape in entry.items():
            if label == "img_size":
                continue
            try:
                roi = _chexlocalize_roi(label, shape, size, regions.path.name)
                if roi is not None:
                    regions.add(image, roi)
            except (KeyError, TypeError, ValueError) as error:
                regions.reject(image, f"the region of {label!r} cannot be read: {error!r}")


def _chexlocalize_roi(label: str, shape: Any, size: Any, source: str) -> Roi | None:
    """Return a region, or None for an empty one: in CheXlocalize that is how an absent finding is written."""
    if isinstance(shape, dict):
        height, width = (int(side) for side in shape["size"])
        roi = Roi(label, "rle", json.dumps({"size": [height, width], "counts": shape["counts"]}), width, height, source)
        return roi if to_mask(roi).any() else None
    if not shape:
        return None
    height, width = (int(side) for side in size)
    polygons = [[float(number) for point in polygon for number in point] for polygon in shape]
    return Roi(label, "polygon", json.dumps(polygons), width, height, source)


def _read_masks(folder: Path, regions: RoiFile) -> None:
    masks = sorted(folder.rglob("*.png"))
    if not masks:
        raise UsageError(f"{folder} holds no .png; expected {_EXPECTED}")
    for mask in masks:
        image, label = _mask_names(folder, mask)
        try:
            if not label:
                raise ImageRejected("roi", f"{mask.name} names no label; expected LABEL/IMAGE.png or IMAGE__LABEL.png")
            inside = read_image(str(mask)).pixels > 0
            height, width = inside.shape
            geometry = json.dumps(encode_mask(inside))
            regions.add(image, Roi(label, "rle", geometry, width, height, str(mask.relative_to(folder))))
        except ImageRejected as error:
            regions.reject(image, f"mask {mask.relative_to(folder)}: {error.reason}")


def _mask_names(folder: Path, mask: Path) -> tuple[str, str]:
    """Return image and label; the label is blank where the name says none."""
    label, *inner = mask.relative_to(folder).with_suffix("").parts
    if inner:
        return "/".join(inner), label
    image, double_line, label = mask.stem.rpartition("__")
    return (image, label) if double_line else (mask.stem, "")
