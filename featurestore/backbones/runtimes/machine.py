"""What a measured speed and a converted network are good for: this processor with these libraries."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from featurestore.backbones.runtimes.base import Setting

_LIBRARIES = ("torch", "timm", "openvino")


def library_versions() -> dict[str, str]:
    """Return the versions of what computes networks, without importing it; empty where it is not installed."""
    return {name: _version(name) for name in _LIBRARIES}


def machine_id(setting: Setting) -> str:
    """Return a short hash of processor, libraries and setting."""
    known = {
        "processor": _processor(),
        "libraries": library_versions(),
        "setting": [setting.size, setting.batch, setting.threads, setting.precision],
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "flags"))]
    return " ".join(named[:2]) or platform.processor() or platform.machine()
