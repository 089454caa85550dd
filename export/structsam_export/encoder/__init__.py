"""SAM's image encoder with token merging in its blocks, and its decoder unchanged.

How tokens merge is in `merging/`; nothing here depends on the method.
"""

from .attention import MergedAttention, MergedBlock
from .decoder import PromptedMaskDecoder
from .patch import apply, merged_blocks, remove

__all__ = ["MergedAttention", "MergedBlock", "PromptedMaskDecoder", "apply", "merged_blocks", "remove"]
