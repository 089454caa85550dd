"""SAM's two-way transformer, blind to absent tokens.

Prompts of one call have one number of tokens in the graph, and may have fewer in truth: a box is two tokens,
five clicks are six. A token that is not there must weigh nothing, or it would change the masks of its prompt:
as a key it gets the logit minus infinity, whose weight is exactly 0, and as a query nothing reads its result.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def two_way(
    transformer: Any, image: Tensor, place: Tensor, tokens: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens and image attend to each other, by the modules of SAM's own TwoWayTransformer.

    Args:
        transformer: SAM's.
        image: [P, C, H, W] embedding with the dense prompt.
        place: [1, C, H, W] positional encoding of the image.
        tokens: [P, T, C] learned tokens and prompts.
        bias: [P, T] 0, or minus infinity where a token is not there; at least one of each prompt is.

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
    """Tokens among themselves, tokens to image, MLP, image to tokens: [P, T, C] and [P, H * W, C]."""
    if layer.skip_first_layer_pe:
        x = layer.norm1(_attend(layer.self_attn, x, x, x, bias))
    else:
        x = layer.norm1(x + _attend(layer.self_attn, x + tokens, x + tokens, x, bias))
    x = layer.norm2(x + _attend(layer.cross_attn_token_to_image, x + tokens, image + place, image))
    x = layer.norm3(x + layer.mlp(x))
    seen = _attend(layer.cross_attn_image_to_token, image + place, x + tokens, x, bias)
    return x, layer.norm4(image + seen)


def _attend(attention: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """SAM's attention: [P, Q, C], [P, K, C] and [P, K, C] to [P, Q, C]; `bias` [P, 1, 1, K] is added."""
    q, k, v = (
        projection(x).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)  # [P, heads, ., d]
        for projection, x in ((attention.q_proj, q), (attention.k_proj, k), (attention.v_proj, v))
    )
    logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    weights = (logits if bias is None else logits + bias).softmax(-1)
    projected: Tensor = attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
    return projected
