"""The lungs' vessels: a branching tree in each lung, grown once per patient and seen from both sides."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from featurestore.images.phantom_plan import Body, generator
from featurestore.images.phantom_scene import Array, Frame

_LEVELS = ((2.6, 1.0), (2.5, 0.62), (2.2, 0.38), (1.9, 0.24))  # length and diameter, cm
_HILUM_Y, _STEMS, _ROUND = 15.2, 7, 1.5


class Vessels(NamedTuple):
    """Segments of both lungs, stems first.

    Parameters
    ----------
    ends : ndarray of shape (n, 2, 3), float64
        Start and end in reference cm (x to the patient's left, y down, z backwards).
    diameter : ndarray of shape (n,), float64
        Centimetres.
    """

    ends: npt.NDArray[np.float64]
    diameter: npt.NDArray[np.float64]


def grow_vessels(body: Body) -> Vessels:
    """Grow a patient's vessels; the same for all images of the patient."""
    rng = generator(*body.entropy)
    sign = np.repeat([-1.0, 1.0], _STEMS)
    hilum = np.stack([3.2 * sign, _HILUM_Y - 0.4 * (sign > 0), np.full(2 * _STEMS, 0.5)], axis=1)
    around = np.tile(np.linspace(-1.25, 1.35, _STEMS), 2) + rng.normal(0.0, 0.12, 2 * _STEMS)
    start = hilum + rng.normal(0.0, 0.35, hilum.shape)
    heading = np.stack([sign * np.cos(around), np.sin(around), rng.normal(0.0, 0.6, 2 * _STEMS)], axis=1)
    ends, diameters = [], []
    for length, diameter in _LEVELS:
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        tip = start + heading * length * rng.uniform(0.75, 1.25, (len(start), 1))
        ends.append(np.stack([start, tip], axis=1))
        diameters.append(diameter * rng.uniform(0.8, 1.2, len(start)))
        start, heading = np.repeat(tip, 2, axis=0), np.repeat(heading, 2, axis=0)
        heading = heading + rng.normal(0.0, 0.42, heading.shape)
    return Vessels(np.concatenate(ends), np.concatenate(diameters))


def draw_vessels(frame: Frame, vessels: Vessels) -> Array:
    """Return the vessels' thickness along the ray, cm, shape (size, size), float32."""
    flat = vessels.ends[:, :, [2, 1] if frame.pose.view == "LATERAL" else [0, 1]]
    lines = [(path, d, _ROUND * d) for path, d in zip(flat, vessels.diameter.tolist(), strict=True)]
    return frame.draw(lines[::-1])  # thin ones first, so that a stem covers its branches
