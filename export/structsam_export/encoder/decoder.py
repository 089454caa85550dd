"""SAM's prompt encoder and mask decoder, unpatched, in one exportable module."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from structsam_runtime.predict.prompts import ABSENT

from .two_way import two_way


class PromptedMaskDecoder(nn.Module):
    """Masks for many prompts on one image, in one call.

    Numerically equal to SAM's own modules. Two steps are written differently, because the original does not
    trace or does not build in TensorRT: label embeddings are looked up in a table instead of added under
    boolean masks, and the image embedding is broadcast over the prompts instead of repeated. Beyond SAM,
    prompts of different lengths fit in one call: absent points are masked out in attention.

    Args:
        sam: Meta's Sam; its prompt encoder and mask decoder are shared, not copied.
    """

    def __init__(self, sam: Any) -> None:
        super().__init__()
        self.prompts = sam.prompt_encoder
        self.decoder = sam.mask_decoder
        # [1, 256, H, W], the same for every image and prompt, so it is made once.
        self.place: Tensor
        self.register_buffer("place", sam.prompt_encoder.get_dense_pe(), persistent=False)

    def forward(
        self,
        image_embedding: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Masks and their predicted quality.

        Args:
            image_embedding: [1, 256, H, W] of one image.
            point_coords: [P, N, 2] x, y in pixels of the model's frame.
            point_labels: [P, N] int32: 1 foreground, 0 background, 2 and 3 a box's top left and bottom right
                corner, -1 padding, -2 absent. SAM was trained with one padding point after points without a
                box; absent points fill up shorter prompts and have no effect.
            mask_input: [P, 1, 4H, 4W] logits of an earlier mask.
            has_mask_input: [P] 1 where mask_input is used, 0 where it is ignored.

        Returns:
            masks [P, 4, 4H, 4W], logits: the single mask first, then the three of an ambiguous prompt; and
            iou_predictions [P, 4].
        """
        sparse = embed_points(self.prompts, point_coords, point_labels)
        dense = self._embed_mask(mask_input, has_mask_input)
        dtype = self.decoder.mask_tokens.weight.dtype
        bias = torch.where(point_labels == ABSENT, -torch.inf, 0.0).to(dtype)
        masks, quality = self._decode(image_embedding.to(dtype) + dense, sparse.to(dtype), bias)
        return masks.float(), quality.float()

    def _embed_mask(self, mask: Tensor, given: Tensor) -> Tensor:
        """Masks [P, 1, 4H, 4W] and flags [P] to dense prompt embeddings [P, 256, H, W]."""
        nothing = self.prompts.no_mask_embed.weight[..., None, None]  # [1, 256, 1, 1]
        embedded = self.prompts.mask_downscaling(mask.to(nothing.dtype))
        return torch.where(given[:, None, None, None] > 0, embedded, nothing)

    def _decode(self, image: Tensor, sparse: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """[P, 256, H, W], [P, N, 256] and [P, N] to masks [P, 4, 4H, 4W] and their quality [P, 4]."""
        decoder = self.decoder
        learned = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([learned.expand(sparse.shape[0], -1, -1), sparse], 1)
        bias = F.pad(bias, (len(learned), 0))  # learned tokens are never absent
        tokens, image_tokens = two_way(decoder.transformer, image, self.place, tokens, bias)
        upscaled = decoder.output_upscaling(image_tokens.transpose(1, 2).view(image.shape))
        heads = [head(tokens[:, 1 + index]) for index, head in enumerate(decoder.output_hypernetworks_mlps)]
        masks = torch.stack(heads, 1) @ upscaled.flatten(2)
        return masks.unflatten(2, upscaled.shape[2:]), decoder.iou_prediction_head(tokens[:, 0])


def embed_points(prompts: Any, coords: Tensor, labels: Tensor) -> Tensor:
    """Points as SAM's prompt encoder embeds them, in fp32: 1024 pixels are too many for fp16.

    Args:
        prompts: SAM's prompt encoder.
        coords: [P, N, 2] x, y in pixels of the model's frame.
        labels: [P, N], see `PromptedMaskDecoder.forward`.

    Returns:
        [P, N, 256].
    """
    side, _ = prompts.input_image_size  # SAM's input is square
    place = (coords + 0.5) / side
    angle = 2 * torch.pi * ((2 * place - 1) @ prompts.pe_layer.positional_encoding_gaussian_matrix)
    encoding = torch.cat([angle.sin(), angle.cos()], -1)
    learned = [prompts.not_a_point_embed, *prompts.point_embeddings]  # labels -1, 0, 1, 2, 3
    table = torch.cat([embedding.weight for embedding in learned]).float()
    row = (labels + 1).clamp(min=0)  # an absent point is masked later; its embedding must be finite
    added = table.index_select(0, row.flatten()).view(encoding.shape)
    return encoding * (labels >= 0)[..., None] + added
