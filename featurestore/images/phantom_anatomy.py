"""The healthy chest, from the front and from the side, as thickness maps."""

from __future__ import annotations

import numpy as np

from featurestore.images import phantom_bones as bones
from featurestore.images.phantom_plan import Body, Pose
from featurestore.images.phantom_scene import (
    Array,
    Ellipse,
    Frame,
    Scene,
    Walls,
    ball,
    bump,
    edge,
    pose_frame,
    ramp,
    rod,
    smooth_noise,
)
from featurestore.images.phantom_vessels import Vessels, draw_vessels

HALF_CHEST = 14.0
"""Half the inner chest's width in the reference body, cm."""

_BASE_Y = 31.5  # the costophrenic angle


def build_scene(size: int, body: Body, pose: Pose, vessels: Vessels, rng: np.random.Generator) -> Scene:
    """Build one image's healthy chest.

    Parameters
    ----------
    size : int
        Pixels per side.
    body : Body
    pose : Pose
    vessels : Vessels
        `phantom_vessels.grow_vessels` of the body.
    rng : numpy.random.Generator
        Draws what changes from image to image: stomach gas, the texture of soft tissue.
    """
    frame = pose_frame(size, body, pose)
    scene = _lateral(frame, body) if pose.view == "LATERAL" else _frontal(frame, body, rng)
    scene.body *= 1.0 + 0.015 * smooth_noise(rng, 14, size)
    scene.displace(draw_vessels(frame, vessels))
    scene.displace(scene.ellipse(scene.heart))
    scene.lungs *= 1.0 + 0.02 * smooth_noise(rng, 48, size)
    return scene


def _cube(t: Array) -> Array:
    return t * t * t  # numpy's ** 3 takes the slow road through pow


def _two(size: int) -> Array:
    return np.zeros((2, size, size), dtype=np.float32)


def _frontal(frame: Frame, body: Body, rng: np.random.Generator) -> Scene:
    bedside = frame.pose.view == "AP"
    walls = _frontal_walls(frame, body)
    near = Walls(*(np.where(frame.x > 0, w[1], w[0]) for w in walls))
    cavity = _two(frame.size)
    room = _frontal_room(near, body)
    cavity[0], cavity[1] = room * (frame.x < 0), room * (frame.x >= 0)
    trunk = _frontal_trunk(frame, body)
    limb, limb_bone = bones.arms(frame, 0.05 if bedside else 0.38)
    bone = bones.posterior_ribs(frame, near.outer) + bones.anterior_ribs(frame, near.outer)
    bone += bones.clavicles(frame, 1.2 if bedside else 0.0) + bones.scapulae(frame, 2.6 if bedside else 0.6)
    bone = (bone + bones.spine(frame) + limb_bone) * body.bone
    gas = np.maximum(_airways(frame), _stomach(frame, near.base, rng))
    # Half of the heart's width lies 1.6 cm to the left; the ratio is heart over inner chest (Danzer 1919).
    wide = body.heart_ratio * HALF_CHEST * frame.pose.magnification
    heart = Ellipse(1.5 + 0.4 * frame.pose.rotation, 22.0 + 0.6 * frame.pose.inspiration, wide, 5.9, 10.5, 0.6)
    whole = np.maximum(trunk, limb)
    return Scene(frame, whole, cavity.copy(), cavity, gas, bone, np.zeros_like(whole), walls, heart, body)


def _frontal_walls(frame: Frame, body: Body) -> Walls:
    x, y = frame.x, frame.y
    apex = y - body.apex
    h = np.clip(apex * (1.0 / (_BASE_Y - body.apex)), 0.0, 1.2)
    swell = np.sqrt(np.maximum(1.0 - _cube(1.0 - np.minimum(h, 1.0)), 0.0)) * HALF_CHEST
    neck = 2.2 * bump(apex * 0.45)
    knob = body.aorta * bump((y - 11.3) * 0.7)
    artery = 0.9 * bump((y - 14.6) * 0.6)
    cava = 0.5 * bump((y - 12.0) * 0.3)
    # The heart's waist: the mediastinum widens into the heart rather than being cut by it.
    lean = 1.5 * ramp((y - 13.5) * 0.12)
    outer, inner, base = _two(frame.size), _two(frame.size), _two(frame.size)
    for side, (sign, bulge, lower) in enumerate(((-1.0, cava, 0.0), (1.0, knob + artery, 1.1))):
        ax = sign * x
        outer[side] = swell - ax
        inner[side] = ax - (2.2 + neck + bulge + lean)
        base[side] = _dome(ax - 6.3) + (body.dome + frame.pose.inspiration + lower) - y
    return Walls(outer, inner, base, np.broadcast_to(apex, outer.shape))


def _dome(off: Array) -> Array:
    square = off * off
    return 0.035 * square + 0.0011 * square * square


def _frontal_room(near: Walls, body: Body) -> Array:
    """Return the lungs' depth: deep in the middle, thin at wall and apex; some lies behind the diaphragm."""
    width = np.maximum(near.outer + near.inner, 0.1)
    out, inn = np.clip(near.outer / width, 0.0, 1.0), np.clip(near.inner / width, 0.0, 1.0)
    across = np.sqrt(out) * np.sqrt(np.sqrt(inn)) * 1.35
    down = np.sqrt(ramp(near.apex * (1.0 / 9.0)))
    behind = 0.3 * ramp((near.base + 5.0) * 0.2)
    above = edge(near.base, 0.5) * (1.0 - behind) + behind * (near.base > (-5.0))
    room: Array = (0.68 * body.depth) * np.minimum(across, 1.0) * down * above
    return room


def _frontal_trunk(frame: Frame, body: Body) -> Array:
    x, y = frame.x, frame.y
    shoulders = 6.2 + 15.5 * ramp((y - 1.5) * (1.0 / 6.5))
    waist = (17.3 + 0.25 * (body.depth - 22.0)) + 5.5 * ramp((15.0 - y) * 0.14)
    t = np.abs(x) / np.minimum(shoulders, waist)
    depth = body.depth * (0.62 + 0.38 * ramp((y - 3.0) * 0.11))
    trunk = depth * np.sqrt(np.maximum(1.0 - t * t * t, 0.0))
    if body.breast > 0.0:
        for sign in (-1.0, 1.0):
            u = (x - (sign * (8.3 + 0.1 * body.breast))) * (1.0 / 6.3)
            v = (y - (21.5 + 0.5 * body.breast)) * (1.0 / 6.6)
            trunk += body.breast * ball(u, v) * ramp((v + 1.0) * 0.7)
    out: Array = trunk
    return out


def _airways(frame: Frame) -> Array:
    """Return the trachea and main bronchi, cm of air; the carina is at y = 13.6."""
    x, y = frame.x - (0.4 * frame.pose.rotation + 0.15), frame.y
    trachea = 1.7 * rod(x * (1.0 / 0.95)) * edge(13.4 - y, 0.8)
    below = y - 13.3
    off = np.abs(x) - 0.3 - 0.75 * below
    bronchi = 1.1 * bump(off * 1.7) * edge(below, 0.6) * edge(2.6 - below, 1.5)
    out: Array = np.maximum(trachea, bronchi)
    return out


def _stomach(frame: Frame, base: Array, rng: np.random.Generator) -> Array:
    """Return the gas under the left dome, cm; present in two films of three."""
    x0, deep, wide = rng.uniform(4.5, 7.5), rng.uniform(1.2, 2.4), rng.uniform(1.6, 3.2)
    present = rng.random() < 0.67
    u = (frame.x - x0) * (1.0 / wide)
    v = (base + (0.7 + deep)) * (1.0 / deep)
    return (4.5 * present) * np.sqrt(ball(u, v)) * (frame.x > 0)


def _lateral(frame: Frame, body: Body) -> Scene:
    walls = _lateral_walls(frame, body)
    cavity = np.stack([_lateral_room(walls, side, body) for side in (0, 1)])
    z, y = frame.x, frame.y
    axis = (7.6 - 0.6) + body.kyphosis * (1.0 - np.square((y - 17.0) * 0.08))
    bone = bones.lateral_spine(frame, axis) + bones.sternum(frame, walls.inner[0])
    bone = (bone + bones.lateral_ribs(frame, walls.outer[0])) * body.bone
    off = z - ((-1.4) + 0.16 * y)
    gas = 1.8 * rod(off * (1.0 / 0.95)) * edge(14.0 - y, 0.8)
    length = 6.6 * (body.heart_ratio / 0.45)
    heart = Ellipse(-3.9, 22.6 + 0.6 * frame.pose.inspiration, length, 5.2, 10.0 * body.heart_ratio / 0.45, 0.9)
    whole = _lateral_trunk(frame, walls, body)
    return Scene(frame, whole, cavity.copy(), cavity, gas, bone, np.zeros_like(whole), walls, heart, body)


def _lateral_walls(frame: Frame, body: Body) -> Walls:
    z, y = frame.x, frame.y
    grow = 0.42 + 0.012 * (body.depth - 22.0)
    apex = y - body.apex
    h = np.clip(apex * (1.0 / (_BASE_Y - body.apex)), 0.0, 1.0)
    front = -body.depth * grow * np.sqrt(np.maximum(1.0 - _cube(1.0 - h), 0.0)) + 1.2
    round_back = 1.0 - np.square((y - 19.0) * (1.0 / 16.0))
    back = (6.0 + 0.10 * body.depth) + (1.0 + body.kyphosis) * round_back
    back = back * np.sqrt(ramp(apex * 0.14 + 0.12))
    outer, inner = back - z, z - front
    base = _two(frame.size)
    for side, lower in enumerate((-0.3, 0.9)):
        off = z + 2.5
        fall = 0.03 * off * off + 0.0032 * _cube(np.maximum(off, 0.0))
        base[side] = fall + (body.dome + frame.pose.inspiration + lower) - y
    two = (2, frame.size, frame.size)
    return Walls(np.broadcast_to(outer, two), np.broadcast_to(inner, two), base, np.broadcast_to(apex, two))


def _lateral_room(walls: Walls, side: int, body: Body) -> Array:
    """Return one lung's breadth: 10 cm of it in the middle, less where the mediastinum and the hila are."""
    outer, inner = walls.outer[side], walls.inner[side]
    width = np.maximum(outer + inner, 0.1)
    out, inn = np.clip(outer / width, 0.0, 1.0), np.clip(inner / width, 0.0, 1.0)
    across = np.minimum(np.sqrt(np.sqrt(out * inn)) * 1.5, 1.0)
    down = np.sqrt(ramp(walls.apex[side] * (1.0 / 11.0)))
    hilum = 1.0 - 0.22 * bump((inn - 0.5) * 3.2)
    room: Array = (10.3 * body.width) * across * down * hilum * edge(walls.base[side], 0.5)
    return room


def _lateral_trunk(frame: Frame, walls: Walls, body: Body) -> Array:
    z, y = frame.x, frame.y
    skin = 1.7 + 0.12 * (body.depth - 20.0)
    down = ramp((y + 6.0) * (1.0 / 22.0))
    # Raised arms and shoulders keep the outline wide above the lungs.
    front = np.minimum((-6.0) - (0.46 * body.depth - 5.0) * down, z - walls.inner[0] - skin)
    back = np.maximum(8.5 + (0.12 * body.depth) * down, walls.outer[0] + z + 1.6 * skin)
    t = (2.0 * z - front - back) / (back - front)
    chord = np.sqrt(np.sqrt(np.maximum(1.0 - t * t, 0.0)))
    high = 1.0 + 0.12 * ramp((9.0 - y) * 0.2)
    breast = bump((y - 22.5) * 0.22) * bump((z - front - 2.0) * 0.4)
    out: Array = ((31.0 * body.width) * high + (1.2 * body.breast) * breast) * chord
    return out
