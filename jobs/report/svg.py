"""From a matplotlib figure to an SVG that can stand inside the page, in light and in dark, beside others."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
from matplotlib.figure import Figure

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

# matplotlib wants colours, the page wants CSS variables: each variable is drawn in a colour nothing else has.
PAINT = {
    "ink": "#010101",
    "muted": "#010102",
    "rule": "#010103",
    "s1": "#010104",
    "s2": "#010105",
    "s3": "#010106",
    "s4": "#010107",
    "s5": "#010108",
}


def inline(figure: Figure, name: str, description: str) -> str:
    """Return the figure as inline SVG.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Drawn in the colours of `PAINT`.
    name : str
        Unique in the page; every id inside starts with it, so that figures do not share clip paths.
    description : str
        What a reader who cannot see it should know.

    Returns
    -------
    str
        ``<svg role="img" aria-label="...">``, without prologue, metadata or fixed size; text is real text.
    """
    root = ET.fromstring(_draw(figure))  # noqa: S314  our own bytes
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for element in root.iter():
        _adopt(element, name)
    _frame(root, description)
    # HTML knows inline SVG without its namespace, and no address then stands in the file.
    text = ET.tostring(root, encoding="unicode").replace(f' xmlns:ns0="{_SVG}"', "")
    return re.sub(r"(</?)ns0:", r"\1", text)


def _draw(figure: Figure) -> bytes:
    out = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cxrstore"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return out.getvalue()


def _adopt(element: ET.Element, name: str) -> None:
    link = element.attrib.pop(f"{{{_XLINK}}}href", None)
    if link is not None:
        element.set("href", link)
    for key, value in element.attrib.items():
        element.set(key, _attribute(key, value, name))


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    value = value.replace("url(#", f"url(#{name}-")
    if key == "style":
        # The page's own font, so that figures and text look alike and nothing has to be embedded.
        value = re.sub(r"font: ([\d.]+px)[^;]*", r"font-size: \1; font-family: inherit", value)
    for variable, colour in PAINT.items():
        value = value.replace(colour, f"var(--{variable})")
    return value


def _frame(root: ET.Element, description: str) -> None:
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", description)
