"""The sizes of SAM. Imports nothing heavy: the command's help reads it."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT = "vit_nano"
"""The architecture that needs no download."""


@dataclass(frozen=True)
class Architecture:
    """What one size of SAM differs in, and its weights.

    What has a default is Meta's for all sizes of theirs.

    Attributes:
        embed_dim: C, channels of a token.
        depth: blocks.
        heads: attention heads.
        global_blocks: blocks with global attention; all others attend within windows.
        file: name of the checkpoint.
        sha256: its hash; None for one that is part of this package.
        width: channels of the image embedding, the prompts and the decoder.
        decoder_mlp: hidden channels of the decoder's MLPs.
        decoder_heads: attention heads of the decoder.
        image_size: pixels along the side of the square input that the weights were made for.
        patch: pixels along the side of a token's patch.
        window: tokens along the side of an attention window.
        family: a name in FAMILIES, which says what pictures the model wants; `--family` has the last word.
    """

    embed_dim: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    file: str
    sha256: str | None
    width: int = 256
    decoder_mlp: int = 2048
    decoder_heads: int = 8
    image_size: int = 1024
    patch: int = 16
    window: int = 14
    family: str = "sam"

    def grid(self, image_size: int) -> int:
        """Tokens along the side of the feature map of an input of so many pixels."""
        return image_size // self.patch

    def mask_side(self, image_size: int) -> int:
        """Pixels along the side of the decoder's masks, which have four for every token."""
        return 4 * self.grid(image_size)


ARCHITECTURES = {
    "vit_nano": Architecture(
        192,
        6,
        3,
        (2, 5),
        "vit_nano.safetensors",
        None,
        width=128,
        decoder_mlp=512,
        decoder_heads=4,
        image_size=512,
        patch=8,
    ),
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
"""What `--arch` takes: our own small SAM, trained by scripts/train_nano.py, and Meta's three."""
