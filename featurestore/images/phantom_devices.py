"""Lines, tubes and pacemakers: paths through the body in centimetres, drawn as steel-equivalent metal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featurestore.images.phantom_scene import Scene

_Path = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Device:
    """One kind of device.

    Parameters
    ----------
    name : str
    paths : tuple of paths
        Each a tuple of points (x to the patient's left, y down, z backwards), reference cm.
    diameter : float
        Of the line, cm.
    steel : float
        Steel-equivalent thickness along the ray, cm.
    disc : tuple of float or None
        Centre x, y, z, radius and steel-equivalent thickness of a flat part (a generator, an electrode's clip).
    """

    name: str
    paths: tuple[_Path, ...]
    diameter: float
    steel: float
    disc: tuple[float, float, float, float, float] | None = None


DEVICES = (
    Device(
        "central line",
        (((-8.5, 6.0, -6), (-4.5, 7.2, -5), (-2.6, 9.0, -3), (-2.2, 12.0, -1), (-2.1, 16.0, -1)),),
        0.25,
        0.055,
    ),
    Device("tracheal tube", (((0.5, 0.0, -1), (0.45, 11.0, 0)), ((-0.15, 0.0, -1), (-0.15, 11.2, 0))), 0.18, 0.055),
    Device(
        "gastric tube", (((0.4, 0.0, 1), (0.6, 12.0, 3), (1.0, 22.0, 3), (3.5, 28.0, 0), (6.5, 30.0, -2)),), 0.3, 0.05
    ),
    Device(
        "pacemaker",
        (((8.5, 9.0, -9), (4.0, 7.6, -6), (-0.5, 9.5, -3), (-2.0, 14.0, -2), (-1.5, 20.0, -4), (3.0, 25.0, -6)),),
        0.22,
        0.085,
        (9.2, 9.8, -9.5, 2.1, 0.12),
    ),
    Device(
        "monitor leads",
        (
            ((-9.0, 5.5, -11), (-6.0, 12.0, -12), (1.0, 20.0, -12)),
            ((9.5, 6.0, -11), (6.5, 15.0, -12), (1.5, 20.5, -12)),
        ),
        0.18,
        0.065,
        (-9.0, 5.5, -11.0, 0.6, 0.08),
    ),
    Device(
        "sternal wires",
        tuple(((-0.6, y, -10.0), (0.6, y + 0.3, -10.0)) for y in (10.5, 13.0, 15.5, 18.0, 20.5)),
        0.22,
        0.1,
    ),
)
"""What a ward and an operation leave on a film, drawn from at random."""


def plant_devices(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Place one to three different devices; a faint finding is one thin, barely opaque line."""
    for n in rng.permutation(len(DEVICES))[: 1 + round(2 * strength)]:
        _place(scene, DEVICES[n], 0.25 + 0.75 * strength, rng)


def _place(scene: Scene, device: Device, opacity: float, rng: np.random.Generator) -> None:
    shift, wander = rng.normal(0.0, 0.35, 3), rng.normal(0.0, 0.25, (8, 3))
    lines = []
    for path in device.paths:
        points = np.array(path) + shift + wander[: len(path)] * (len(path) > 2)
        flat = np.array([scene.project(*point) for point in points])
        lines.append((flat, device.diameter, device.steel * opacity))
    steel = scene.frame.draw(lines)
    if device.disc is not None:
        x, y, z, radius, thick = device.disc
        cx, cy = scene.project(x + float(shift[0]), y + float(shift[1]), z)
        # A flat box on the chest: from the side it is seen edge on, narrow and denser.
        squeeze, denser = (0.3, 1.5) if scene.lateral else (1.0, 1.0)
        u = (scene.frame.x - cx) / (radius * squeeze)
        v = (scene.frame.y - cy) / radius
        inside = (u * u + v * v < 1.0).astype(np.float32)
        steel = np.maximum(steel, inside * (thick * opacity * denser))
    scene.metal = scene.metal + steel
