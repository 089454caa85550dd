"""Token arithmetic: which tokens of a window are merged, and how they come back. Knows no model.

Read `plan.py` first (what a method returns), then `structsam.py` (Algorithm 1 of the paper), then
`matching.py` (what the other methods share).
"""

from .energy import gradient_energy
from .method import Identity, Method
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
    "SplitWindows",
    "StructSAM",
    "ToMe",
    "ToMeSD",
    "VidToMe",
    "Windows",
    "gradient_energy",
    "unmerge_groups",
]
