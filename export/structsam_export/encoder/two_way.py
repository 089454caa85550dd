"""SAM's two-way transformer with a mask for absent tokens.

All prompts of one call have the same number of tokens in the graph, but a box needs two tokens and five
clicks need six. An absent token must not change the masks of its prompt: as a key its logit is minus
infinity, so its attention weight is exactly 0, and as a query its result is not used.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def two_way(
    transformer: Any, image: Tensor, place: Tensor, tokens: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention between tokens and image, with the modules of SAM's own TwoWayTransformer.

    Args:
        transformer: SAM's TwoWayTransformer.
        image: [P, C, H, W] image embedding plus dense prompt embedding.
        place: [1, C, H, W] positional encoding of the image.
        tokens: [P, T, C] learned tokens and prompt tokens.
        bias: [P, T], 0, or minus infinity for an absent token; at least one token of each prompt is present.

    Returns:
        Tokens [P, T, C] and image [P, H * W, C].
    """
    image, place = image.flatten(2).transpose(1, 2), place.flatten(2).transpose(1, 2)
    bias, x = bias[:, None, None], tokens
    for layer in transformer.layers:
        x, image = _block(layer, x, image, tokens, place, bias)
    read = _attend(transformer.final_attn_token_to_image, x + tokens, image + place, image)
    return transformer.norm_final_attn(x + read), image


def _block(
    layer: Any, x: Tensor, image: Tensor, tokens: Tensor, place: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Self-attention, tokens to image, MLP, image to tokens; returns [P, T, C] and [P, H * W, C]."""
    if layer.skip_first_layer_pe:
        x = layer.norm1(_attend(layer.self_attn, x, x, x, bias))
    else:
        x = layer.norm1(x + _attend(layer.self_attn, x + tokens, x + tokens, x, bias))
    x = layer.norm2(x + _attend(layer.cross_attn_token_to_image, x + tokens, image + place, image))
    x = layer.norm3(x + layer.mlp(x))
    seen = _attend(layer.cross_attn_image_to_token, image + place, x + tokens, x, bias)
    return x, layer.norm4(image + seen)


def _attend(attention: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """SAM's attention: q [P, Q, C], k and v [P, K, C] to [P, Q, C]; `bias` [P, 1, 1, K] is added."""
    q, k, v = (
        projection(x).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)  # [P, heads, ., d]
        for projection, x in ((attention.q_proj, q), (attention.k_proj, k), (attention.v_proj, v))
    )
    logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    weights = (logits if bias is None else logits + bias).softmax(-1)
    projected: Tensor = attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
    return projected
