"""The sizes of SAM. Imports nothing heavy: the command's help reads it."""

from __future__ import annotations

from dataclasses import dataclass

PATCH = 16
"""Pixels along the side of a token's patch."""
WINDOW = 14
"""Tokens along the side of an attention window."""
EMBEDDING = 256
"""Channels of the image embedding."""


@dataclass(frozen=True)
class Architecture:
    """What one size of SAM differs in, and Meta's weights for it.

    Attributes:
        embed_dim: C, channels of a token.
        depth: blocks.
        heads: attention heads.
        global_blocks: blocks with global attention; all others attend within windows.
        file: name of Meta's checkpoint.
        sha256: its hash.
    """

    embed_dim: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    file: str
    sha256: str


ARCHITECTURES = {
    "vit_b": Architecture(
        768,
        12,
        12,
        (2, 5, 8, 11),
        "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "vit_l": Architecture(
        1024,
        24,
        16,
        (5, 11, 17, 23),
        "sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit_h": Architecture(
        1280,
        32,
        16,
        (7, 15, 23, 31),
        "sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
}
"""What `--arch` takes."""
