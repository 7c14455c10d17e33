"""A signed map over its radiograph, as a PNG.

What raises the output is red, what lowers it blue (RdBu: told apart in the common colour blindnesses), the opacity
grows with the magnitude, and the scale is symmetric about zero, so that no colour means nothing happened there. The
region of interest is outlined.
"""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError
from xai.localisation import bilinear

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = "RdBu_r"
_OPACITY = 0.75  # at the largest magnitude; the anatomy below stays readable
_OUTLINE = "#ffd92f"  # yellow: apart from both ends of the scale and from grey
_INCHES, _DPI, _CAPTION_WIDTH = 4.8, 100, 66


def render(
    pixels: npt.ArrayLike, map: npt.ArrayLike, mask: npt.ArrayLike | None, caption: str, unit: str = "output"
) -> bytes:
    """Draw a signed map over a radiograph.

    Parameters
    ----------
    pixels : array of uint8, shape (height, width)
        The grey radiograph.
    map : array of float, shape (h, w)
        Signed and finite, on any grid over the same field; drawn at the radiograph's size by `bilinear`. One that is
        zero everywhere draws nothing and says so under the caption.
    mask : array of bool, shape (height, width), or None
        The region of interest; None or empty draws no outline.
    caption : str
        Text above the picture, wrapped; taken literally.
    unit : str
        What the colour bar measures, such as ``probability``.

    Returns
    -------
    bytes
        A PNG, 8-bit RGBA, about 480 pixels wide, without dates or version: equal arguments give equal bytes.

    Raises
    ------
    featurestore.errors.UsageError
        Where a shape or type is not as said above.
    """
    grey = _grey(pixels)
    signed = bilinear(map, *grey.shape)
    figure, axes = _canvas(grey.shape)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    if signed.any():
        _lay_over(figure, axes, signed, unit)
    if mask is not None:
        _outline(axes, _region(mask, grey.shape))
    lines = [*textwrap.wrap(caption, _CAPTION_WIDTH), *([] if signed.any() else ["the map is zero everywhere"])]
    figure.suptitle("\n".join(lines), fontsize=9, parse_math=False)
    return _png(figure)


def _canvas(shape: tuple[int, ...]) -> tuple[Figure, Axes]:
    """Return a figure of its own: pyplot would keep every figure of the process alive."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = float(np.clip(shape[0] / shape[1], 0.3, 3.0)) * _INCHES * 0.85 + 0.6
    figure = Figure(figsize=(_INCHES, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_axis_off()
    return figure, axes


def _lay_over(figure: Figure, axes: Axes, signed: npt.NDArray[np.float64], unit: str) -> None:
    limit = float(np.abs(signed).max())
    opacity = _OPACITY * np.abs(signed) / limit
    drawn = axes.imshow(signed, cmap=_COLOURS, vmin=-limit, vmax=limit, alpha=opacity, interpolation="nearest")
    # the bar is drawn from the norm and colours alone: a bar cannot show one opacity per pixel
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(drawn.norm, drawn.cmap), ax=axes, fraction=0.05, pad=0.02)
    bar.set_label(f"{unit} per map cell: red raises, blue lowers", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _outline(axes: Axes, region: npt.NDArray[np.bool_]) -> None:
    """Draw the region's border, closed also where it touches the image's edge."""
    if not region.any():
        return
    padded = np.pad(region, 1).astype(np.float64)
    rows, columns = np.arange(-1, region.shape[0] + 1), np.arange(-1, region.shape[1] + 1)
    for colour, width in (("black", 2.6), (_OUTLINE, 1.3)):
        axes.contour(columns, rows, padded, levels=[0.5], colors=colour, linewidths=width)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"Software": None}
    figure.savefig(buffer, format="png", metadata=metadata)
    return buffer.getvalue()


def _grey(pixels: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    grey = np.asarray(pixels)
    if grey.dtype != np.uint8 or grey.ndim != 2 or grey.size == 0:
        raise UsageError(f"a radiograph is {grey.dtype} {grey.shape}; expected uint8 (height, width): decode it first")
    return grey


def _region(mask: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    region = np.asarray(mask)
    if region.dtype != np.bool_ or region.shape != shape:
        raise UsageError(
            f"the region of interest is {region.dtype} of shape {region.shape}; expected bool {shape}: "
            "draw it at the radiograph's size"
        )
    return region
