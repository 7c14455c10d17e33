"""One phantom patient's images: planned, built, exposed, and each finding's region marked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError
from featurestore.images.phantom_anatomy import build_scene
from featurestore.images.phantom_detector import WHITE, expose
from featurestore.images.phantom_findings import PLANTERS
from featurestore.images.phantom_labels import LABELS, PARENT, PRIORS
from featurestore.images.phantom_plan import Hospital, Patient, Shot, View, generator, plan_patient
from featurestore.images.phantom_scene import Array
from featurestore.images.phantom_vessels import Vessels, grow_vessels

MASK_FRACTION = 0.25
"""A finding's region is where it changed the attenuation by more than this share of its own greatest change."""

_VISIBLE = 0.02  # a change of the line integral below 2 % of the exposure is no region anyone could draw


@dataclass(frozen=True, eq=False)
class PhantomImage:
    """One generated radiograph.

    Parameters
    ----------
    pixels : ndarray of shape (size, size), uint16
        12-bit grey, 0 to 4095; dense tissue is bright (as MONOCHROME2).
    labels : dict of str to (1, 0, -1, None)
        CheXpert's 14 in order, the same in all images of a study.
    masks : dict of str to ndarray of shape (size, size), bool
        For each label that is 1 and changed this image, where it did; a parent's is the union of its own and its
        children's.
    patient_id, study_id : str
        Such as ``a00012`` and ``a00012-s1``.
    view : {"PA", "AP", "LATERAL"}
    sex : {"M", "F"}
    age : int
        Years.
    name : str
        Relative path without a suffix, such as ``images/a00012/s1_1``.
    """

    pixels: npt.NDArray[np.uint16]
    labels: dict[str, int | None]
    masks: dict[str, npt.NDArray[np.bool_]]
    patient_id: str
    study_id: str
    view: View
    sex: str
    age: int
    name: str

    def to_uint8(self) -> npt.NDArray[np.uint8]:
        """Return the pixels scaled to 0..255, shape (size, size), uint8."""
        out: npt.NDArray[np.uint8] = np.rint(self.pixels * (255.0 / WHITE)).astype(np.uint8)
        return out


def generate_patient(seed: int, hospital: Hospital, index: int, size: int = 256) -> list[PhantomImage]:
    """Generate all images of one patient.

    The same arguments give the same images, whatever else was generated before.

    Parameters
    ----------
    seed : int
        0 or more.
    hospital : {"a", "b"}
        ``b`` exposes less, scatters and blurs more, displays flatter and takes more bedside (AP) films.
    index : int
        Which patient, 0 or more.
    size : int
        Pixels per side of the 36 cm film, 32 to 2048.

    Returns
    -------
    list of PhantomImage
        1 to 4 images of 1 or 2 studies.

    Raises
    ------
    featurestore.errors.UsageError
        Where an argument is outside its range.
    """
    check_arguments(seed=seed, hospital=hospital, index=index, size=size)
    patient = plan_patient(seed, hospital, index)
    vessels = grow_vessels(patient.body)
    return [_image(patient, shot, vessels, size) for shot in patient.shots]


def check_arguments(*, seed: int, hospital: str, index: int, size: int) -> None:
    """Raise a UsageError that names the first argument outside its range."""
    if seed < 0:
        raise UsageError(f"phantom seed {seed} is negative; give a whole number of 0 or more")
    if hospital not in ("a", "b"):
        raise UsageError(f"no phantom hospital {hospital!r}; choose a or b")
    if index < 0:
        raise UsageError(f"phantom patient index {index} is negative; patients are counted from 0")
    if not 32 <= size <= 2048:
        raise UsageError(f"phantom size {size} is outside 32 to 2048 pixels; 256 is the native size")


def _image(patient: Patient, shot: Shot, vessels: Vessels, size: int) -> PhantomImage:
    pixels, changes = render(patient, shot, vessels, size)
    return PhantomImage(
        pixels=pixels,
        labels=dict(shot.labels),
        masks=_masks(changes, shot.labels),
        patient_id=patient.patient_id,
        study_id=f"{patient.patient_id}-s{shot.study}",
        view=shot.pose.view,
        sex=patient.sex,
        age=patient.age,
        name=f"images/{patient.patient_id}/s{shot.study}_{shot.number}",
    )


def render(
    patient: Patient, shot: Shot, vessels: Vessels, size: int, *, noise: bool = True
) -> tuple[npt.NDArray[np.uint16], dict[str, Array]]:
    """Build, plant and expose one image.

    Parameters
    ----------
    patient : Patient
    shot : Shot
        Whose ``strengths`` say what is planted.
    vessels : Vessels
        `grow_vessels` of the patient's body.
    size : int
    noise : bool
        Whether quanta and electronics are noisy.

    Returns
    -------
    pixels : ndarray of shape (size, size), uint16
    changes : dict of str to ndarray of shape (size, size), float32
        By planted label, the absolute change of the line integral at the moment it was planted.
    """
    scene = build_scene(size, patient.body, shot.pose, vessels, generator(*shot.entropy, 1))
    reference = attenuation = scene.attenuation()
    changes: dict[str, Array] = {}
    for number, prior in enumerate(PRIORS):
        strength = shot.strengths.get(prior.label, 0.0)
        if strength > 0.0:
            PLANTERS[prior.label](scene, strength, generator(*patient.entropy, number))
            before, attenuation = attenuation, scene.attenuation()
            changes[prior.label] = np.abs(attenuation - before)
    rng = generator(*shot.entropy, 2) if noise else None
    cells = scene.cavity[0] + scene.cavity[1]
    return expose(attenuation, reference, cells, patient.hospital, shot.pose, rng), changes


def _masks(changes: Mapping[str, Array], labels: Mapping[str, int | None]) -> dict[str, npt.NDArray[np.bool_]]:
    """Threshold each change, keep those read as present, and give parents the union of their children."""
    masks = {
        label: change > MASK_FRACTION * change.max()
        for label, change in changes.items()
        if labels[label] == 1 and change.max() > _VISIBLE
    }
    for child, parent in PARENT.items():
        if child in masks and labels[child] == 1:
            masks[parent] = masks[parent] | masks[child] if parent in masks else masks[child]
    return {label: masks[label] for label in LABELS if label in masks}
