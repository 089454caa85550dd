"""SAM with merging inside its image encoder, and the decoder as it is. Knows no merging arithmetic."""

from .attention import MergedAttention, MergedBlock
from .decoder import PromptedMaskDecoder
from .patch import apply, merged_blocks, remove

__all__ = ["MergedAttention", "MergedBlock", "PromptedMaskDecoder", "apply", "merged_blocks", "remove"]
