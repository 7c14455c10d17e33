"""Findings as physical changes of the thickness maps, one function each.

Every function takes the scene, a strength in (0, 1] and a random stream that is the same in all of a patient's images,
so that a finding sits at the same place in each of them; it changes the scene in place. Places are chosen in the body
(cm) and projected, so the frontal and the lateral film agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from featurestore.images.phantom_bones import Break, lateral_ribs, posterior_ribs
from featurestore.images.phantom_devices import plant_devices
from featurestore.images.phantom_scene import Array, Scene, ball, bump, edge, ramp, smooth_noise

Planter = Callable[[Scene, float, np.random.Generator], None]


def plant_wide_mediastinum(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Widen the upper mediastinum by 0.6 to 2.6 cm a side, unequally (an unfolded aorta, lymph nodes, fat)."""
    level, tall, left = rng.uniform(10.0, 13.0), rng.uniform(2.8, 4.5), rng.uniform(0.3, 1.0)
    profile = bump((scene.frame.y - level) * (1.0 / tall))
    if scene.lateral:
        z = bump((scene.frame.x - 0.5) * (1.0 / 3.0))
        scene.displace((2.0 + 5.0 * strength) * profile * z)
        return
    for side, share in ((0, 1.3 - left), (1, left)):
        extra = ((0.5 + 2.2 * strength) * share) * profile
        scene.fill(side, edge(extra - scene.walls.inner[side], 0.4) * edge(profile - 0.1, 0.1))


def plant_cardiomegaly(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Enlarge the heart by 7 to 37 %, mostly to the left and downwards."""
    growth = 1.07 + 0.30 * strength * rng.uniform(0.8, 1.1)
    old = scene.heart
    big = old._replace(
        x=old.x + (growth - 1.0) * (-2.0 if scene.lateral else 2.2),
        a=old.a * growth,
        b=old.b * (0.6 + 0.4 * growth),
        chord=old.chord * (0.7 + 0.3 * growth),
    )
    scene.displace(np.maximum(scene.ellipse(big) - scene.ellipse(old), 0.0))
    scene.heart = big


def plant_pneumothorax(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Let air between the lung and the chest wall: 0.6 to 4 cm, widest at the apex; no vessels there."""
    side, low = int(rng.integers(2)), rng.uniform(0.15, 0.5)
    walls = scene.walls
    depth = (0.5 + 3.6 * strength) * (1.0 - (1.0 - low) * ramp(walls.apex[side] * 0.06))
    near = walls.apex[side] if scene.lateral else np.minimum(walls.outer[side], walls.apex[side] * 0.8)
    rim = edge(depth - near, 0.25) * 0.92
    scene.gas = scene.gas + scene.cavity[side] * rim
    scene.fill(side, rim)
    if not scene.lateral:  # from the side the other lung hides the shrunken one
        scene.fill(side, np.full_like(rim, 0.10 * strength))
    pleura = bump((near - depth) * 6.0)
    scene.lungs[side] -= np.minimum(0.8 * pleura, scene.lungs[side])


def plant_edema(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Wet both lungs around the hila and below, in clouds; at its worst a third of the air is gone."""
    cloud = np.clip(1.0 + 0.35 * smooth_noise(rng, 12, scene.frame.size), 0.3, 1.7)
    reach, level = rng.uniform(5.5, 8.0), rng.uniform(16.0, 19.0)
    v = (scene.frame.y - level) * (1.0 / 8.0)
    for side in (0, 1):
        u = scene.frame.x if scene.lateral else np.maximum(scene.walls.inner[side], 0.0)
        wet = bump(u * (1.0 / reach)) * bump(v) * cloud
        scene.fill(side, np.clip((0.03 + 0.27 * strength) * wet, 0.0, 0.9))


def plant_consolidation(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Fill part of one lobe, 2.5 to 5.5 cm wide with a ragged edge; bronchi with air run through it."""
    side, (x, y, z) = _place(rng, 9.0, 24.0)
    size = scene.frame.size
    wide, tall = 2.3 + 2.4 * strength * rng.uniform(0.7, 1.2), 2.0 + 2.4 * strength * rng.uniform(0.7, 1.2)
    ragged = 0.35 * smooth_noise(rng, 16, size)
    bronchi = 0.15 * np.abs(smooth_noise(rng, 44, size))
    cx, cy = scene.project(x, y, z)
    u, v = (
        (scene.frame.x - cx) * (1.0 / wide),
        (scene.frame.y - cy) * (1.0 / tall),
    )
    core = edge(1.0 - np.sqrt(u * u + v * v) + ragged, 0.7)
    scene.fill(side, core * np.clip((0.15 + 0.5 * strength) - bronchi, 0.0, 1.0))


def plant_opacity(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Veil a patch of 3 to 6 cm without an edge: an opacity that is nothing more definite."""
    side, (x, y, z) = _place(rng, 8.0, 24.0)
    wide, tall = rng.uniform(2.5, 4.5), rng.uniform(2.5, 4.5)
    cx, cy = scene.project(x, y, z)
    u, v = (
        (scene.frame.x - cx) * (1.0 / wide),
        (scene.frame.y - cy) * (1.0 / tall),
    )
    scene.fill(side, (0.12 + 0.33 * strength) * np.exp(-u * u - v * v))


def plant_lesion(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Grow one to three round masses, 1.2 to 5 cm across."""
    for n in range(int(rng.integers(1, 4))):
        side, (x, y, z) = _place(rng, 8.0, 25.0)
        radius = (0.6 + 1.9 * strength) * (1.0 if n == 0 else rng.uniform(0.4, 0.8))
        cx, cy = scene.project(x, y, z)
        u, v = (
            (scene.frame.x - cx) * (1.0 / radius),
            (scene.frame.y - cy) * (1.0 / radius),
        )
        mass = (2.0 * radius) * ball(u, v)
        scene.lungs[side] -= np.minimum(mass, scene.lungs[side])


def plant_atelectasis(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Collapse plates of one lower lung, 3 to 8 cm long, and raise that diaphragm by up to 2.2 cm."""
    side = int(rng.integers(2))
    base = scene.walls.base[side]
    raised = 0.1 + 2.1 * strength
    scene.fill(side, 1.0 - edge(base - raised, 0.5))
    along = scene.frame.x if scene.lateral else scene.walls.inner[side]
    for n in range(1 + round(2 * strength)):
        above, slope, start = (
            raised + 1.2 + 1.5 * n + rng.uniform(-0.4, 0.4),
            rng.uniform(-0.25, 0.25),
            rng.uniform(0.5, 3.0),
        )
        length, thick = 3.0 + 5.0 * strength * rng.uniform(0.6, 1.0), 0.25 + 0.3 * strength
        start = start - 4.0 if scene.lateral else start
        off = base - above - slope * along
        run = edge(along - start, 1.0) * edge((start + length) - along, 1.0)
        scene.fill(side, (0.2 + 0.4 * strength) * bump(off * (1.0 / thick)) * run)


def plant_effusion(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Pour fluid into one or both pleural spaces: it blunts the angle first, then climbs along the wall."""
    sides = (0, 1) if rng.random() < 0.25 else (int(rng.integers(2)),)
    soft = 2.5 if scene.frame.pose.view == "AP" else 0.8  # half lying, the fluid layers out behind the lung
    for n, side in enumerate(sides):
        level = 31.0 - ((1.0 + 8.5 * strength) * (1.0 if n == 0 else rng.uniform(0.4, 0.9)))
        wall = (0.4 + 2.6 * strength) * np.exp(-np.maximum(scene.walls.outer[side], 0.0) * 0.35)
        under = edge(scene.frame.y - level + wall - 0.4, soft)
        scene.fill(side, 0.95 * under)


def plant_pleural_other(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Thicken one side's pleura along the wall by 0.5 to 1.8 cm over 5 to 12 cm, in part calcified."""
    side, level, tall = int(rng.integers(2)), rng.uniform(10.0, 22.0), rng.uniform(2.5, 6.0)
    outer, y = scene.walls.outer[side], scene.frame.y
    extent = edge(1.0 - np.abs(y - level) * (1.0 / tall), 0.5)
    wavy = (0.4 + 1.4 * strength) * (1.0 + 0.25 * smooth_noise(rng, 14, scene.frame.size))
    band = edge(wavy * extent - outer, 0.3) * edge(outer + 0.3, 0.3) * extent
    inside = scene.cavity[side] > 0.2
    scene.fill(side, 0.85 * band)
    calcified = np.clip(smooth_noise(rng, 24, scene.frame.size), 0.0, 1.0)
    scene.bone = scene.bone + (0.5 * strength) * band * calcified * inside


def plant_fracture(scene: Scene, strength: float, rng: np.random.Generator) -> None:
    """Break one to four neighbouring ribs; the outer part steps by 0.3 to 1.1 cm and a callus forms."""
    side, first, at = int(rng.integers(2)), int(rng.integers(2, 6)), rng.uniform(6.5, 10.0)
    step = (0.25 + 0.85 * strength) * (1.0 if rng.random() < 0.5 else -1.0)
    ribs = range(first, first + 1 + round(3 * strength))
    breaks = tuple(Break(side, rib, at + rng.normal(0.0, 0.4), step * rng.uniform(0.7, 1.1)) for rib in ribs)
    outer = scene.walls.outer
    if scene.lateral:
        change = lateral_ribs(scene.frame, outer[0], breaks) - lateral_ribs(scene.frame, outer[0])
        callus = np.zeros_like(change)
    else:
        own = np.where(scene.frame.x > 0, outer[1], outer[0])
        change = posterior_ribs(scene.frame, own, breaks) - posterior_ribs(scene.frame, own)
        callus = np.sum([_callus(scene, b, strength) for b in breaks], axis=0)
    scene.bone = np.maximum(scene.bone + scene.build.bone * change + callus, 0.0)


def _callus(scene: Scene, b: Break, strength: float) -> Array:
    fall = 0.035 * (b.at - 3.5) ** 2
    y = 5.2 + 2.35 * b.rib + (0.7 + 0.05 * b.rib) * fall
    u = scene.frame.x - (b.at if b.side else -b.at)
    v = scene.frame.y - (y + 0.5 * b.step)
    return (0.5 + 2.0 * strength) * np.exp(-(u * u + v * v) * 2.2)


def _place(rng: np.random.Generator, top: float, bottom: float) -> tuple[int, tuple[float, float, float]]:
    """Choose a lung and a point inside it, cm (x to the patient's left, y down, z backwards)."""
    side = int(rng.integers(2))
    y = rng.uniform(top, bottom)
    x = rng.uniform(4.0, 7.0 + 4.5 * (y - top) / (bottom - top))
    return side, ((1.0 if side else -1.0) * x, y, rng.uniform(-5.0, 5.5))


PLANTERS: Mapping[str, Planter] = {
    "Enlarged Cardiomediastinum": plant_wide_mediastinum,
    "Cardiomegaly": plant_cardiomegaly,
    "Pneumothorax": plant_pneumothorax,
    "Edema": plant_edema,
    "Consolidation": plant_consolidation,
    "Lung Opacity": plant_opacity,
    "Lung Lesion": plant_lesion,
    "Atelectasis": plant_atelectasis,
    "Pleural Effusion": plant_effusion,
    "Pleural Other": plant_pleural_other,
    "Fracture": plant_fracture,
    "Support Devices": plant_devices,
}
"""How each finding of `phantom_labels.PRIORS` is planted."""
