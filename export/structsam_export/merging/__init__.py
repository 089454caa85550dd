"""Token arithmetic: which tokens of a window merge, and how they are unmerged. Independent of any model.

Read `plan.py` first (what a method returns), then `methods/structsam.py` (Algorithm 1 of the paper), then
`matching.py` (what the other methods share), then `registry.py` (which methods there are).

Names are imported on first access, so that the registry can be read without PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .energy import gradient_energy
    from .method import Identity, Method, Site
    from .methods.adjacent import Adjacent
    from .methods.algm import ALGM
    from .methods.bipartite import Bipartite
    from .methods.hybrid import Hybrid
    from .methods.pitome import PiToMe
    from .methods.structsam import StructSAM
    from .methods.tome import ToMe
    from .methods.tomesd import ToMeSD
    from .methods.vidtome import VidToMe
    from .plan import MergePlan, unmerge_groups
    from .prompted import PromptedWindows, SplitWindows
    from .windows import Windows

_HOMES = {
    "ALGM": "methods.algm",
    "Adjacent": "methods.adjacent",
    "Bipartite": "methods.bipartite",
    "Hybrid": "methods.hybrid",
    "Identity": "method",
    "MergePlan": "plan",
    "Method": "method",
    "PiToMe": "methods.pitome",
    "PromptedWindows": "prompted",
    "Site": "method",
    "SplitWindows": "prompted",
    "StructSAM": "methods.structsam",
    "ToMe": "methods.tome",
    "ToMeSD": "methods.tomesd",
    "VidToMe": "methods.vidtome",
    "Windows": "windows",
    "gradient_energy": "energy",
    "unmerge_groups": "plan",
}

__all__ = [
    "ALGM",
    "Adjacent",
    "Bipartite",
    "Hybrid",
    "Identity",
    "MergePlan",
    "Method",
    "PiToMe",
    "PromptedWindows",
    "Site",
    "SplitWindows",
    "StructSAM",
    "ToMe",
    "ToMeSD",
    "VidToMe",
    "Windows",
    "gradient_energy",
    "unmerge_groups",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first access.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
