"""From attenuation to grey: exposure, scatter, quanta, electronics and the display curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from featurestore.images.phantom_plan import Hospital, Pose
from featurestore.images.phantom_scene import FIELD_CM, Array

WHITE = 4095
"""The greatest 12-bit grey."""


@dataclass(frozen=True)
class Detector:
    """One hospital's X-ray room.

    Parameters
    ----------
    quanta : float
        Detected quanta per mm2 behind the healthy chest's middle.
    scatter : float
        Scattered over primary radiation behind an average chest; a grid lowers it.
    blur : float
        Standard deviation of the detector's point spread, cm.
    electronic : float
        Standard deviation of the read-out noise, quanta per sqrt(mm2).
    slope, centre : float
        Sigmoid display curve over the natural logarithm of exposure.
    sharpen : float
        Share of the fine detail added again before display.
    """

    quanta: float
    scatter: float
    blur: float
    electronic: float
    slope: float
    centre: float
    sharpen: float


DETECTORS: dict[Hospital, Detector] = {
    "a": Detector(quanta=1100.0, scatter=0.7, blur=0.09, electronic=3.0, slope=1.75, centre=0.28, sharpen=0.35),
    "b": Detector(quanta=190.0, scatter=1.3, blur=0.15, electronic=6.0, slope=1.5, centre=0.08, sharpen=0.0),
}


def expose(
    attenuation: Array, reference: Array, cells: Array, hospital: Hospital, pose: Pose, rng: np.random.Generator | None
) -> npt.NDArray[np.uint16]:
    """Take the film.

    Parameters
    ----------
    attenuation : ndarray of shape (size, size), float32
        Line integrals of the chest to show.
    reference : ndarray of the same shape
        Those of the same chest in health: the exposure control reads these, so that a finding changes the film where
        it is and not everywhere.
    cells : ndarray of the same shape, float32
        Weight of each pixel in the exposure control's reading; its cells sit behind the lungs.
    hospital : {"a", "b"}
    pose : Pose
    rng : numpy.random.Generator or None
        Draws the noise; None takes a film without noise.

    Returns
    -------
    ndarray of shape (size, size), uint16
        0 (all the beam arrives) to 4095 (nothing does).
    """
    d = DETECTORS[hospital]
    size = len(attenuation)
    signal = _with_scatter(attenuation, d.scatter) / _reading(reference, cells, d)
    pixel_cm = FIELD_CM / size
    if rng is None:
        signal = _blur(signal, d.blur / pixel_cm)
    else:
        area = (10.0 * pixel_cm) ** 2
        gain = d.quanta * pose.dose * area
        # Quanta are noisy before the screen blurs them, the electronics after.
        signal = _blur(rng.poisson(signal * gain).astype(np.float32), d.blur / pixel_cm)
        signal += (d.electronic * float(np.sqrt(area))) * rng.standard_normal(signal.shape, dtype=np.float32)
        signal *= 1.0 / gain
    return _display(-np.log(np.maximum(signal, (1e-4))), d, pose)


def _with_scatter(attenuation: Array, share: float) -> Array:
    """Return primary and scattered radiation; scatter is a 3 cm wide blur of what the primary lost and kept."""
    primary = np.exp(-attenuation)
    out: Array = primary + share * _coarse_blur(np.minimum(primary, 0.2), 3.0)
    return out


def _reading(reference: Array, cells: Array, d: Detector) -> float:
    step = max(1, len(cells) // 64)  # the cells are large; a pixel in 64 of each axis is as good as all
    thin = np.ascontiguousarray(reference[::step, ::step])
    weight = cells[::step, ::step]
    return float((_with_scatter(thin, d.scatter) * weight).sum() / weight.sum())


def _display(optical: Array, d: Detector, pose: Pose) -> npt.NDArray[np.uint16]:
    if d.sharpen > 0.0:
        optical = optical + d.sharpen * (optical - _coarse_blur(optical, 1.2))
    t = (d.slope * pose.contrast) * (optical - (d.centre + pose.brightness))
    out: npt.NDArray[np.uint16] = np.rint(WHITE / (1.0 + np.exp(-t))).astype(np.uint16)
    return out


def _blur(image: Array, sigma: float) -> Array:
    return np.asarray(ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3.0), dtype=np.float32)


def _coarse_blur(image: Array, sigma_cm: float) -> Array:
    """Blur widely at low cost: average down to about four pixels per sigma, blur there, interpolate back."""
    size = len(image)
    small = min(size, round(FIELD_CM / sigma_cm * 4))
    coarse = np.asarray(Image.fromarray(image).resize((small, small), Image.Resampling.BOX), dtype=np.float32)
    coarse = _blur(coarse, sigma_cm / (FIELD_CM / small))
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
