"""Token arithmetic: which tokens of a window are merged, and how they come back. Knows no model.

Read `plan.py` first (what a method returns), then `structsam.py` (Algorithm 1 of the paper), then
`matching.py` (what the other methods share).
"""

from .adjacent import Adjacent
from .algm import ALGM
from .bipartite import Bipartite
from .energy import gradient_energy
from .hybrid import Hybrid
from .method import Identity, Method, Replay
from .pitome import PiToMe
from .plan import MergePlan, unmerge_groups
from .prompted import PromptedWindows, SplitWindows
from .structsam import StructSAM
from .tome import ToMe
from .tomesd import ToMeSD
from .vidtome import VidToMe
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
    "Replay",
    "SplitWindows",
    "StructSAM",
    "ToMe",
    "ToMeSD",
    "VidToMe",
    "Windows",
    "gradient_energy",
    "unmerge_groups",
]
