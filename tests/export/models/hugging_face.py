"""A small `transformers.SamModel` with made-up weights, and what it answers: the reference of a test.

Records `hugging_face.npz` anew where transformers is installed (5.24 made it):

    python tests/export/models/hugging_face.py tests/export/models/hugging_face.npz
"""

import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SIZES: dict[str, Any] = {"embed_dim": 32, "depth": 3, "heads": 2, "global_blocks": (1,), "window": 6}
WIDTH, DECODER_MLP, DECODER_HEADS, IMAGE_SIZE = 32, 48, 4, 128
POINT, BOX = (40.0, 70.0), (20.0, 30.0, 100.0, 90.0)
"""Prompts, in pixels of the square input."""


def made_up(name: str, shape: tuple[int, ...]) -> Tensor:
    """Weights from a name alone, the same on every machine, under which attention is far from uniform."""
    count, start = int(np.prod(shape)), zlib.crc32(name.encode()) % 1000
    noise = np.modf(np.sin(np.arange(count) * 12.9898 + start) * 43758.5453)[0]  # -1..1
    if len(shape) == 1:
        values = 0.1 * noise + name.endswith("weight")
    elif "pos" in name:
        values = noise * (1.0 if "positional" in name else 0.3)
    else:
        values = noise * (3 / np.prod(shape[1:])) ** 0.5
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def picture(side: int) -> Tensor:
    """Normalised pixels [1, 3, side, side] of a disc on a slope."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    disc = (x**2 + y**2 < 0.08) * 1.5
    return torch.from_numpy(np.stack([disc + x, disc - y, disc * x + y])[None].astype(np.float32))


def model() -> Any:
    """The `SamModel`."""
    from transformers import SamConfig, SamModel

    sizes = {"image_size": IMAGE_SIZE, "patch_size": 16}
    vision = {
        "hidden_size": SIZES["embed_dim"],
        "num_hidden_layers": SIZES["depth"],
        "num_attention_heads": SIZES["heads"],
        "global_attn_indexes": list(SIZES["global_blocks"]),
        "window_size": SIZES["window"],
        "output_channels": WIDTH,
        "num_pos_feats": WIDTH // 2,
        **sizes,
    }
    decoder = {"hidden_size": WIDTH, "mlp_dim": DECODER_MLP, "num_attention_heads": DECODER_HEADS}
    return SamModel(
        SamConfig(
            vision_config=vision,
            prompt_encoder_config={"hidden_size": WIDTH, **sizes},
            mask_decoder_config=decoder,
        )
    ).eval()


@torch.no_grad()
def answers(sam: Any, image: Tensor) -> dict[str, Tensor]:
    """Embedding [1, C, H, W], mask logits [3, 4 H, 4 W] and scores [3] of a point and of a box."""
    embedding = sam.get_image_embeddings(image)
    prompts = {
        "point": {"input_points": torch.tensor([[[POINT]]]), "input_labels": torch.ones(1, 1, 1).long()},
        "box": {"input_boxes": torch.tensor([[BOX]])},
    }
    found = {"embedding": embedding}
    for name, prompt in prompts.items():
        answer = sam(image_embeddings=embedding, multimask_output=True, **prompt)
        found |= {f"{name}_masks": answer.pred_masks[0, 0], f"{name}_scores": answer.iou_scores[0, 0]}
    return found


@torch.no_grad()
def record(path: Path) -> None:
    """Write names, shapes and answers; weights and picture are made up again whenever they are needed."""
    sam = model()
    shapes = {name: tuple(value.shape) for name, value in sam.state_dict().items()}
    sam.load_state_dict({name: made_up(_tied(name), shape) for name, shape in shapes.items()})
    found = {name: value.numpy() for name, value in answers(sam, picture(IMAGE_SIZE)).items()}
    listed = [f"{name} {' '.join(map(str, shape))}" for name, shape in shapes.items()]
    np.savez_compressed(path, names=np.array(listed), **found)


def _tied(name: str) -> str:
    return name.replace("prompt_encoder.shared_embedding", "shared_image_embedding")


def recorded(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights by Hugging Face's names, and the answers."""
    with np.load(path) as content:
        shapes = {
            name: tuple(map(int, sizes))
            for name, *sizes in (line.split() for line in content["names"].tolist())
        }
        found = {name: torch.from_numpy(content[name]) for name in content.files if name != "names"}
    return {name: made_up(_tied(name), shape) for name, shape in shapes.items()}, found


if __name__ == "__main__":
    record(Path(sys.argv[1]))
