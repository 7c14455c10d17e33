"""Who the phantom patients are, and how each of their images is taken: numbers only, no pixels yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from featurestore.images.phantom_labels import draw_findings, read_labels

Hospital = Literal["a", "b"]
View = Literal["PA", "AP", "LATERAL"]

_AP_SHARE = {"a": 0.2, "b": 0.55}
_BODY, _STUDY, _IMAGE, _FINDING = range(4)


@dataclass(frozen=True)
class Body:
    """One patient's build. Lengths in cm, in a reference body whose inner chest is 28 cm wide.

    Parameters
    ----------
    width, height : float
        Scale of the skeleton, about 0.88 to 1.12.
    depth : float
        Front to back, 17 to 30 cm.
    apex, dome : float
        Height (cm below the image's upper edge) of the lungs' apices and of the right diaphragm's top.
    heart_ratio : float
        Cardiothoracic ratio in health, 0.40 to 0.51.
    breast : float
        Thickness of breast tissue, 0 to 4.5 cm.
    bone : float
        Bone density relative to normal, 0.7 to 1.15; falls with age.
    aorta : float
        How far the aortic knob stands out, cm; grows with age.
    kyphosis : float
        Curvature of the spine seen from the side, cm.
    entropy : tuple of int
        Seeds what is drawn from the body, such as the lungs' vessels.
    """

    width: float
    height: float
    depth: float
    apex: float
    dome: float
    heart_ratio: float
    breast: float
    bone: float
    aorta: float
    kyphosis: float
    entropy: tuple[int, ...]


@dataclass(frozen=True)
class Pose:
    """How one image was taken.

    Parameters
    ----------
    view : {"PA", "AP", "LATERAL"}
    tilt : float
        In-plane rotation, radians.
    shift : tuple of float
        Patient's centre against the detector's, cm (right, down).
    rotation : float
        How far structures 10 cm in front of the spine move sideways, cm.
    inspiration : float
        How far the diaphragm is below its resting place, cm (negative: a poor breath).
    magnification : float
        Heart's magnification; an AP film enlarges it.
    dose : float
        Quanta relative to the hospital's usual.
    brightness, contrast : float
        Residual error of the display curve: shift in log exposure, factor on the slope.
    """

    view: View
    tilt: float
    shift: tuple[float, float]
    rotation: float
    inspiration: float
    magnification: float
    dose: float
    brightness: float
    contrast: float


@dataclass(frozen=True)
class Shot:
    """One planned image.

    Parameters
    ----------
    study, number : int
        Both from 1; the number counts inside the study.
    pose : Pose
    strengths : mapping of str to float
        What is planted, (0, 1] by label.
    labels : mapping of str to (1, 0, -1, None)
        What the study's reader wrote.
    entropy : tuple of int
        Seeds what only this image has: its texture and noise.
    """

    study: int
    number: int
    pose: Pose
    strengths: Mapping[str, float]
    labels: Mapping[str, int | None]
    entropy: tuple[int, ...]


@dataclass(frozen=True)
class Patient:
    """One planned patient.

    Parameters
    ----------
    patient_id : str
        Hospital and index, such as ``a00012``.
    hospital : {"a", "b"}
    sex : {"M", "F"}
    age : int
        18 to 95 years.
    body : Body
    shots : tuple of Shot
        1 to 4 images in 1 or 2 studies.
    entropy : tuple of int
        Seeds where in the body each finding sits; the same in all images.
    """

    patient_id: str
    hospital: Hospital
    sex: Literal["M", "F"]
    age: int
    body: Body
    shots: tuple[Shot, ...]
    entropy: tuple[int, ...]


def generator(*entropy: int) -> np.random.Generator:
    """Return the random stream named by these numbers, the same on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def plan_patient(seed: int, hospital: Hospital, index: int) -> Patient:
    """Draw patient ``index`` of a hospital; nothing depends on how many patients there are.

    Parameters
    ----------
    seed : int
        0 or more.
    hospital : {"a", "b"}
    index : int
        0 or more.
    """
    root = (seed, ord(hospital), index)
    rng = generator(*root, _BODY)
    sex: Literal["M", "F"] = "F" if rng.random() < 0.47 else "M"
    age = int(np.clip(rng.normal(60.0, 17.0), 18, 95))
    body = _body(sex, age, rng, (*root, _BODY, 1))
    findings = draw_findings(age, rng)
    n_studies = 2 if rng.random() < 0.35 else 1
    shots = tuple(shot for study in range(1, n_studies + 1) for shot in _study(root, hospital, study, findings))
    return Patient(f"{hospital}{index:05d}", hospital, sex, age, body, shots, (*root, _FINDING))


def _body(sex: str, age: int, rng: np.random.Generator, entropy: tuple[int, ...]) -> Body:
    small = 0.95 if sex == "F" else 1.03
    old = (age - 55.0) / 40.0
    return Body(
        width=small * float(np.clip(rng.normal(1.0, 0.04), 0.9, 1.1)),
        height=small * float(np.clip(rng.normal(1.0, 0.04), 0.9, 1.1)),
        depth=float(np.clip(rng.normal(22.5, 2.3), 17.0, 30.0)) * small,
        apex=rng.uniform(4.3, 6.0),
        dome=rng.normal(25.6, 0.9),
        heart_ratio=float(np.clip(rng.normal(0.455, 0.022) + 0.01 * old, 0.40, 0.51)),
        breast=rng.uniform(1.0, 4.5) if sex == "F" else 0.0,
        bone=float(np.clip(rng.normal(1.0 - 0.12 * old, 0.07), 0.7, 1.15)),
        aorta=max(0.2, rng.normal(0.8 + 0.4 * old, 0.25)),
        kyphosis=max(0.0, rng.normal(1.2 + 0.8 * old, 0.5)),
        entropy=entropy,
    )


def _study(root: tuple[int, ...], hospital: Hospital, study: int, findings: Mapping[str, float]) -> list[Shot]:
    rng = generator(*root, _STUDY, study)
    # A finding lasts over a patient's studies, grows and shrinks a little, and now and then has cleared.
    stays, change = rng.random(len(findings)), rng.normal(0.0, 0.1, len(findings))
    strengths = {
        label: float(np.clip(strength + c, 0.08, 1.0))
        for (label, strength), s, c in zip(findings.items(), stays, change, strict=True)
        if study == 1 or s < 0.8
    }
    labels = read_labels(strengths, rng)
    return [
        Shot(study, n, _pose(view, generator(*root, _IMAGE, study, n, 0)), strengths, labels, (*root, _IMAGE, study, n))
        for n, view in enumerate(_views(hospital, bool(findings), rng), start=1)
    ]


def _views(hospital: Hospital, sick: bool, rng: np.random.Generator) -> tuple[View, ...]:
    kind, bedside = rng.random(), rng.random() < _AP_SHARE[hospital] + (0.12 if sick else -0.08)
    if kind < 0.27:
        return ("PA", "LATERAL")  # who can stand sideways can stand for a PA
    frontal: View = "AP" if bedside else "PA"
    return (frontal, frontal) if kind < 0.47 else (frontal,)


def _pose(view: View, rng: np.random.Generator) -> Pose:
    bedside = view == "AP"
    spread = 1.6 if bedside else 1.0
    return Pose(
        view=view,
        tilt=rng.normal(0.0, 0.018) * spread,
        shift=(rng.normal(0.0, 0.5) * spread, rng.normal(0.0, 0.6) * spread),
        rotation=rng.normal(0.0, 0.35) * spread,
        inspiration=rng.normal(-1.2 if bedside else 0.0, 0.7),
        magnification=rng.uniform(1.05, 1.13) if bedside else rng.uniform(0.99, 1.02),
        dose=float(np.exp(rng.normal(0.0, 0.25))),
        brightness=rng.normal(0.0, 0.10),
        contrast=float(np.exp(rng.normal(0.0, 0.07))),
    )
