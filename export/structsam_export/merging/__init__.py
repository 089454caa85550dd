"""Token arithmetic: which tokens of a window are merged, and how they come back. Knows no model.

Read `plan.py` first (what a method returns), then `structsam.py` (Algorithm 1 of the paper).
"""

from .energy import gradient_energy
from .method import Identity, Method, Replay
from .plan import MergePlan
from .structsam import StructSAM
from .windows import Windows

__all__ = [
    "Identity",
    "MergePlan",
    "Method",
    "Replay",
    "StructSAM",
    "Windows",
    "gradient_energy",
]
