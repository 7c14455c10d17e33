"""What the beam meets: a grid in the patient's centimetres and one thickness map per material."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from featurestore.images.phantom_plan import Body, Pose

Array = npt.NDArray[np.floating]
"""Always float32; NumPy's stubs cannot follow that a Python float leaves a float32 array float32."""

FIELD_CM = 36.0
"""Side of the square detector."""

MU_SOFT, MU_LUNG, MU_BONE, MU_METAL = 0.205, 0.053, 0.40, 9.5
"""Linear attenuation at 60 keV, the effective energy of a chest film, 1/cm.

NIST, Hubbell and Seltzer, NISTIR 5632: soft tissue 0.205 cm2/g; the same at an inflated lung's 0.26 g/cm3; iron
1.2 cm2/g at 7.9 g/cm3. Bone is cortex (0.60) and marrow mixed.
"""


def ramp(t: Array) -> Array:
    """Smooth step: 0 below 0, 1 above 1, of continuous slope (Hermite 3t^2 - 2t^3); any shape, float32."""
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def edge(distance: Array, width: float) -> Array:
    """Return 0 to 1 across ``distance`` = 0 within ``width`` (cm); any shape, float32."""
    return ramp(distance * (1.0 / width) + 0.5)


def bump(t: Array) -> Array:
    """Gaussian exp(-t^2), any shape, float32."""
    out: Array = np.exp(-t * t)
    return out


def ball(u: Array, v: Array) -> Array:
    """Return the chord through a unit sphere, sqrt(1 - u^2 - v^2), 0 outside; any shape, float32."""
    return np.sqrt(np.maximum(1.0 - u * u - v * v, 0.0))


def rod(u: Array) -> Array:
    """Return the chord through a unit cylinder, sqrt(1 - u^2), 0 outside; any shape, float32."""
    out: Array = np.sqrt(np.maximum(1.0 - u * u, 0.0))
    return out


@dataclass(frozen=True)
class Frame:
    """Where each pixel's ray passes through the reference body.

    Parameters
    ----------
    size : int
        Pixels per side.
    x, y : ndarray of shape (size, size), float32
        Centimetres in the reference body: x to the image's right from the midline (from the side: towards the back),
        y down from the field's upper edge.
    scale : tuple of float
        The skeleton's scale along x and y.
    pose : Pose
    """

    size: int
    x: Array
    y: Array
    scale: tuple[float, float]
    pose: Pose

    def to_pixels(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Map points of shape (..., 2), reference centimetres, to pixel coordinates (column, row)."""
        centred = (points - (0.0, FIELD_CM / 2)) * self.scale
        cos, sin = np.cos(self.pose.tilt), np.sin(self.pose.tilt)
        turned = centred @ np.array([[cos, sin], [-sin, cos]])
        pixels: npt.NDArray[np.float64] = (turned + self.pose.shift + FIELD_CM / 2) * (self.size / FIELD_CM)
        return pixels

    def draw(self, lines: list[tuple[npt.NDArray[np.float64], float, float]]) -> Array:
        """Rasterise tubes.

        Parameters
        ----------
        lines : list of (points of shape (n, 2) in reference cm, diameter in cm, value)
            Later ones cover earlier ones.

        Returns
        -------
        ndarray of shape (size, size), float32
            The value where a tube runs, thinned where the tube is narrower than a pixel.
        """
        zoom = 3 if self.size <= 512 else 2
        canvas = Image.new("F", (self.size * zoom, self.size * zoom), 0.0)
        pen = ImageDraw.Draw(canvas)
        per_cm = zoom * self.size / FIELD_CM
        ends = np.cumsum([len(points) for points, _, _ in lines])
        flat = (self.to_pixels(np.concatenate([points for points, _, _ in lines])) * zoom).ravel().tolist()
        for (points, diameter, value), end in zip(lines, ends.tolist(), strict=True):
            width = max(1, round(diameter * per_cm))
            path = flat[2 * (end - len(points)) : 2 * end]
            pen.line(path, fill=value * min(1.0, diameter * per_cm / width), width=width)
        return np.asarray(canvas.reduce(zoom), dtype=np.float32)


def pose_frame(size: int, body: Body, pose: Pose) -> Frame:
    """Lay the pixel grid over a posed body."""
    axis: Array = (np.arange(size, dtype=np.float32) + 0.5) * (FIELD_CM / size) - (FIELD_CM / 2)
    u: Array = axis[None, :] - pose.shift[0]
    v: Array = axis[:, None] - pose.shift[1]
    cos, sin = float(np.cos(pose.tilt)), float(np.sin(pose.tilt))
    scale = (1.0 if pose.view == "LATERAL" else body.width, body.height)
    x: Array = (cos * u + sin * v) / scale[0]
    y: Array = (cos * v - sin * u) / scale[1] + FIELD_CM / 2
    return Frame(size, x, y, scale, pose)


class Walls(NamedTuple):
    """The chest's inner surfaces, in cm of the reference body; arrays of shape (2, size, size), float32.

    The first axis is the lung: 0 the patient's right (the image's left on a frontal film), 1 the left.

    Parameters
    ----------
    outer : ndarray
        Distance inwards from the lateral chest wall; from the side, from the posterior one.
    inner : ndarray
        Distance outwards from the mediastinum; from the side, backwards from the anterior wall.
    base : ndarray
        Distance upwards from the diaphragm.
    apex : ndarray
        Distance downwards from the apex.
    """

    outer: Array
    inner: Array
    base: Array
    apex: Array


class Ellipse(NamedTuple):
    """An ellipsoid's outline and its greatest chord, in cm; `tilt` in radians."""

    x: float
    y: float
    a: float
    b: float
    chord: float
    tilt: float


@dataclass
class Scene:
    """Thickness maps in cm, float32; findings change them in place.

    Parameters
    ----------
    frame : Frame
    body : ndarray of shape (size, size)
        The whole body along the ray.
    lungs : ndarray of shape (2, size, size)
        Aerated lung, right and left.
    cavity : ndarray of shape (2, size, size)
        The room the lungs have, vessels included.
    gas, bone, metal : ndarray of shape (size, size)
        Air outside the lungs, bone, and steel-equivalent metal.
    walls : Walls
    heart : Ellipse
    build : Body
    """

    frame: Frame
    body: Array
    lungs: Array
    cavity: Array
    gas: Array
    bone: Array
    metal: Array
    walls: Walls
    heart: Ellipse
    build: Body

    @property
    def lateral(self) -> bool:
        """Whether the patient is seen from the side."""
        return self.frame.pose.view == "LATERAL"

    def attenuation(self) -> Array:
        """Return the line integral of attenuation (Beer-Lambert's exponent), shape (size, size), float32, 0 or more.

        What is neither lung, gas nor bone is soft tissue.
        """
        total = self.body * MU_SOFT
        total += (self.lungs[0] + self.lungs[1]) * (MU_LUNG - MU_SOFT)
        total -= self.gas * MU_SOFT
        total += self.bone * (MU_BONE - MU_SOFT)
        total += self.metal * MU_METAL
        out: Array = np.maximum(total, 0.0)
        return out

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Return where a point of the body (cm: to the patient's left, down, backwards) falls in the frame's x, y."""
        return (z, y) if self.lateral else (x + self.frame.pose.rotation * -z / 10.0, y)

    def ellipse(self, e: Ellipse) -> Array:
        """Return a solid's thickness, cm, shape (size, size), float32; from the front it is flatter than a ball."""
        cos, sin = float(np.cos(e.tilt)), float(np.sin(e.tilt))
        u, v = self.frame.x - e.x, self.frame.y - e.y
        chord = ball((cos * u + sin * v) * (1.0 / e.a), (cos * v - sin * u) * (1.0 / e.b))
        return (chord if self.lateral else np.sqrt(chord)) * e.chord

    def fill(self, side: int, share: Array) -> None:
        """Replace a share (0 to 1 per pixel) of one lung's air-filled thickness by soft tissue or fluid."""
        self.lungs[side] *= 1.0 - share

    def displace(self, thickness: Array) -> None:
        """Put a solid of this thickness (cm) into the lungs, shared between them as the lung is."""
        total = self.lungs[0] + self.lungs[1]
        self.lungs *= np.maximum(total - thickness, 0.0) / np.maximum(total, (1e-3))


def smooth_noise(rng: np.random.Generator, cells: int, size: int) -> Array:
    """Return a smooth random field of about ``cells`` bumps a side.

    Returns
    -------
    ndarray of shape (size, size), float32
        Zero mean, unit variance before interpolation; the same field at every size.
    """
    coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
