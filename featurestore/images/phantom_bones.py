"""Bones as thickness maps: ribs, spine, clavicles, scapulae, sternum, arms."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from featurestore.images.phantom_scene import Array, Frame, ball, bump, edge, ramp, rod

_OFF = 9.0


class Break(NamedTuple):
    """A displaced rib fracture: on the side (0 right, 1 left), rib number, distance from the midline and step, cm."""

    side: int
    rib: int
    at: float
    step: float


def tube(distance: Array, radius: float, depth: float) -> Array:
    """Return the bone in a hollow tube seen side on: its two cortical edges are denser than its middle.

    Parameters
    ----------
    distance : ndarray, float32
        From the axis, cm.
    radius, depth : float
        Half height in the image, and bone along the ray at the edges' level, cm.
    """
    t = distance * (1.0 / radius)
    inside = rod(t)
    core = rod(t * 1.35)
    return depth * (inside - 0.55 * core)


def posterior_ribs(frame: Frame, outer: Array, breaks: tuple[Break, ...] = ()) -> Array:
    """Return ribs 1 to 11 behind the lungs, falling outwards from the spine, cm of bone, shape (size, size).

    Parameters
    ----------
    frame : Frame
    outer : ndarray of shape (size, size), float32
        Distance inwards from the lateral chest wall on the pixel's own side, cm.
    breaks : tuple of Break
        Fractures: outwards of each the rib is stepped down, and the step heals along 3 cm.
    """
    ax = np.abs(frame.x)
    fall = 0.035 * np.square(ax - 3.5)
    spacing = 2.35 + 0.05 * fall
    # Rib k runs along y = 5.2 + 2.35 k + (0.7 + 0.05 k) fall, so the ribs are the integer levels of k(x, y).
    k = (frame.y - 5.2 - 0.7 * fall) / spacing
    near = np.rint(k)
    slant = 1.0 / np.sqrt(1.0 + 0.14 * fall)
    distance: Array = (k - near) * spacing * slant
    for b in breaks:
        distance = _stepped(distance, near, ax, (frame.x > 0) == bool(b.side), b)
    bone = tube(distance, 0.62, 1.5)
    # Where a rib turns forward it runs along the ray.
    bone *= np.minimum(1.0 / np.sqrt(np.maximum(outer * 0.16, 0.16)), 2.2)
    out: Array = bone * ((near >= 0) & (near <= 10)) * edge(outer + 0.5, 0.4) * edge(ax - 1.6, 0.8)
    return out


def _stepped(distance: Array, near: Array, ax: Array, side: Array, b: Break) -> Array:
    along = (ax - b.at) * (1.0 / 3.0)
    beyond = side & (near == b.rib) & (along > 0) & (along < 1)
    gap = side & (near == b.rib) & (np.abs(along) < 0.05)
    return np.where(gap, _OFF, distance - beyond * b.step * (1.0 - along)).astype(np.float32)


def anterior_ribs(frame: Frame, outer: Array) -> Array:
    """Return the front ends of ribs 1 to 6, rising outwards and fading into cartilage, cm of bone."""
    ax = np.abs(frame.x - frame.pose.rotation)
    back = 14.0 - ax
    rise = 0.62 * back - 0.018 * back * back
    k = (frame.y - 7.9 - rise) / 2.54
    near = np.rint(k)
    bone = tube((k - near) * (2.54 * 0.87), 0.66, 0.85)
    out: Array = bone * ((near >= 0) & (near <= 6)) * edge(outer, 0.5) * ramp((ax - 4.0) * 0.4)
    return out


def spine(frame: Frame) -> Array:
    """Return the vertebral column from the front, cm of bone."""
    disc = 0.82 + 0.18 * np.cos(frame.y * (2 * np.pi / 2.5))
    body = rod(frame.x * (1.0 / 1.9))
    process = bump(frame.x * 2.5) * 0.5
    out: Array = (2.0 * np.sqrt(body) + process) * disc
    return out


def clavicles(frame: Frame, raised: float) -> Array:
    """Return both clavicles, cm of bone; ``raised`` (cm) lifts them above the apices as on a bedside film."""
    ax = np.abs(frame.x - (1.3 * frame.pose.rotation))
    s = (ax - 1.6) * (1.0 / 14.0)
    line = (8.6 - raised) - 3.6 * s + 0.55 * np.sin(s * (2 * np.pi))
    bone = tube((frame.y - line) * 0.95, 0.72, 1.9)
    out: Array = bone * edge(s, 0.04) * (s < 1.05)
    return out


def scapulae(frame: Frame, drawn_in: float) -> Array:
    """Return both shoulder blades: thin plates with a thick outer border, ``drawn_in`` cm over the lungs."""
    ax = np.abs(frame.x)
    t = (frame.y - 7.0) * (1.0 / 13.0)
    medial = ax - ((13.3 - drawn_in) + 1.5 * t)
    lateral = (18.0 - 0.6 * drawn_in) - 2.6 * t - ax
    plate = edge(medial, 0.35) * edge(lateral, 0.35) * edge(t, 0.1) * edge(1.0 - t, 0.15)
    return plate * (0.22 + 0.5 * bump(lateral - 0.4))


def arms(frame: Frame, abducted: float) -> tuple[Array, Array]:
    """Return the upper arms as (whole limb, bone), cm; ``abducted`` is how far they leave the trunk per cm down."""
    ax = np.abs(frame.x)
    axis = 18.6 + abducted * (frame.y - 8.0)
    off = (ax - axis) * (1.0 / float(np.sqrt(1.0 + abducted**2)))
    below = edge(frame.y - 5.5, 5.0)
    limb = 9.0 * rod(off * (1.0 / 4.5)) * below
    head = 2.2 * ball((ax - 17.6) * 0.42, (frame.y - 8.2) * 0.42)
    return limb, np.maximum(tube(off, 1.3, 2.2) * edge(frame.y - 9.0, 1.0), head)


def lateral_spine(frame: Frame, axis: Array) -> Array:
    """Return the vertebral bodies from the side, cm of bone; ``axis`` of shape (size, size) is their middle's x."""
    off = (frame.x - axis) * (1.0 / 1.75)
    level = frame.y * (2 * np.pi / 2.5)
    block = 0.72 + 0.28 * np.tanh(2.5 * np.cos(level))
    bodies = 2.6 * np.sqrt(rod(off)) * block
    arch = (off - 1.9) * 1.4
    out: Array = bodies + 1.3 * bump(arch) * (0.7 + 0.3 * np.cos(level + 1.0))
    return out


def lateral_ribs(frame: Frame, outer: Array, breaks: tuple[Break, ...] = ()) -> Array:
    """Return both sides' ribs from the side, falling forwards; the far side is drawn larger, as on film. cm of bone."""
    bone = np.zeros_like(frame.x)
    for side, (lift, growth) in enumerate(((0.0, 1.0), (0.9, 1.05))):
        run = outer + 1.0
        fall = 0.62 * run - 0.012 * run * run
        k = (frame.y - (4.6 + lift) - fall) * (1.0 / (2.45 * growth))
        near = np.rint(k)
        distance: Array = (k - near) * (2.45 * growth * 0.85)
        for b in breaks:
            if b.side == side:
                distance = _stepped(distance, near, run, np.ones_like(run, dtype=bool), b)
        shown = (near >= 0) & (near <= 10) & (run < 17.0)
        bone += tube(distance, 0.58, 0.8) * shown * edge(run, 0.5)
    return bone


def sternum(frame: Frame, inner: Array) -> Array:
    """Return the breastbone from the side, cm of bone, just before the lungs' front (``inner`` = 0)."""
    plate = bump((inner + 0.9) * 2.2)
    joints = 0.8 + 0.2 * np.cos(frame.y * (2 * np.pi / 3.4))
    along = edge(frame.y - 9.0, 1.0) * edge(25.0 - frame.y, 1.5)
    out: Array = 2.2 * plate * joints * along
    return out
