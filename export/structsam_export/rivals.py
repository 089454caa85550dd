"""Meta's own encoder as runners, the baselines of the benchmark: plain ONNX exports, and PyTorch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from structsam_runtime.contract import EMBEDDING, IMAGE
from structsam_runtime.errors import UserError
from structsam_runtime.manifest import Model
from structsam_runtime.runners import kind_of
from structsam_runtime.runners.base import Runner, TensorSpec
from structsam_runtime.runners.openvino import NAME as OPENVINO
from structsam_runtime.runners.openvino import library, unreported

from .choices import StrEnum
from .comparing import Specs, TorchRunner
from .encoder.attention import relative_positions
from .graph.precision import DTYPES
from .graph.trace import quiet
from .models.checkpoints import build_sam, randomize
from .targets import FUSED


class Rival(StrEnum):
    """`--rival`. Weights are random, which does not change the latency."""

    META = "meta"
    META_FUSED = "meta-fused"
    META_INT8 = "meta-int8"
    EAGER = "eager"
    SDPA = "sdpa"
    COMPILE = "compile"

    @property
    def label(self) -> str:
        """Name in tables."""
        return {
            Rival.META: "Meta's, plain export",
            Rival.META_FUSED: "Meta's, exported with fused attention",
            Rival.META_INT8: "Meta's, plain export, 8 bits by nncf",
            Rival.EAGER: "Meta's, PyTorch eager",
            Rival.SDPA: "Meta's, PyTorch with fused attention",
            Rival.COMPILE: "Meta's, PyTorch with fused attention, compiled",
        }[self]

    @property
    def exported(self) -> bool:
        """Whether it is a file, which runs on the runners of the exports; else it runs in PyTorch."""
        return self in (Rival.META, Rival.META_FUSED, Rival.META_INT8)

    def runners(self, chosen: Sequence[str]) -> Sequence[str]:
        """Of the runners of the exports, those to time it on; PyTorch runs on the device of the first.

        Raises:
            UserError: it needs another one.
        """
        if self is Rival.META_INT8:
            if OPENVINO not in chosen:
                raise UserError(f"--rival {self} runs in OpenVINO alone; add --runner {OPENVINO}")
            return [OPENVINO]
        return chosen if self.exported else chosen[:1]


class FusedAttention(nn.Module):
    """SAM's attention with PyTorch's fused operator and the relative position as its additive mask.

    Equal to Meta's attention up to rounding.

    Args:
        attention: Meta's attention; its parameters are shared.
        side: rows and columns of a window, or of the map in a global block, in tokens.
    """

    def __init__(self, attention: Any, side: int) -> None:
        super().__init__()
        self.attention, self.side = attention, side

    def forward(self, x: Tensor) -> Tensor:
        """[B', side, side, C] to [B', side, side, C]."""
        windows, side, heads = x.shape[0], self.side, self.attention.num_heads
        qkv = self.attention.qkv(x).view(windows, side * side, 3, heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()  # [B', heads, N, d] each
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=self._bias(query))
        y = y.transpose(1, 2).reshape(windows, side, side, -1)
        projected: Tensor = self.attention.proj(y)
        return projected

    def _bias(self, query: Tensor) -> Tensor | None:
        """Queries [B', heads, N, d] to the bias of the relative position [B', heads, N, N]."""
        if not self.attention.use_rel_pos:
            return None
        grid = query.view(*query.shape[:2], self.side, self.side, -1)  # [B', heads, row, column, d]
        of_rows = grid @ _table(self.attention.rel_pos_h, self.side)
        of_columns = grid.transpose(2, 3) @ _table(self.attention.rel_pos_w, self.side)
        bias = (
            of_rows[..., :, None] + of_columns.transpose(2, 3)[..., None, :]
        )  # [.., row, column, row, column]
        return bias.flatten(4, 5).flatten(2, 3)


def _table(rel_pos: Tensor, side: int) -> Tensor:
    """Vectors of an axis [L, d] for all pairs of positions: [side (query), d, side (key)]."""
    place = torch.arange(side, device=rel_pos.device)
    return relative_positions(rel_pos, side)[place[:, None] - place + side - 1].transpose(1, 2)


def fuse(encoder: Any) -> Any:
    """Replace the attention of every block of Meta's ImageEncoderViT by FusedAttention, in place."""
    grid = encoder.img_size // encoder.patch_embed.proj.kernel_size[0]
    for block in encoder.blocks:
        block.attn = FusedAttention(block.attn, block.window_size or grid)
    return encoder


class TorchEncoder(TorchRunner):
    """An image encoder in PyTorch with the interface of an export: fp32 in and out at any precision.

    Args:
        name: name in messages.
        make: makes the encoder, in fp32 on the CPU.
        model: sizes of the model.
        device: PyTorch device, `cpu` or `cuda`.
        precision: a key of DTYPES; all others are computed in fp32.
        compiled: use `torch.compile`.
    """

    def __init__(
        self, name: str, make: Callable[[], Any], model: Model, device: str, precision: str, compiled: bool
    ) -> None:
        size, fp32 = model.image_size, np.dtype(np.float32)
        inputs = {IMAGE: TensorSpec(fp32, ("batch", 3, size, size))}
        outputs = {EMBEDDING: TensorSpec(fp32, ("batch", *model.embedding))}
        super().__init__(self._embedding, inputs, outputs, name)
        self.make, self.device, self.compiled = make, device, compiled
        self.dtype = DTYPES.get(precision, torch.float32)

    def _open(self) -> tuple[Specs, Specs]:
        encoder = self.make().to(self.device, self.dtype)
        self._encoder = torch.compile(encoder) if self.compiled else encoder
        return super()._open()

    def _close(self) -> None:
        del self._encoder

    def _embedding(self, image: Tensor) -> Tensor:
        embedding: Tensor = self._encoder(image.to(self.device, self.dtype))
        if self.device == "cuda":
            torch.cuda.synchronize()
        return embedding


def require(which: Rival, runner: str) -> None:
    """Check that a rival can run beside exports on a runner, before anything slow is done.

    Raises:
        UserError: the rival is an ONNX file and the runner runs engines, nncf is not installed for the one
            that it makes, or PyTorch finds no GPU.
    """
    kind = kind_of(runner)
    if which.exported and kind.file != "onnx":
        raise UserError(f"--rival {which} is an ONNX file, which {runner} does not run; leave it out")
    if which is Rival.META_INT8:
        _nncf()
    if not which.exported and kind.device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--rival {which} runs on the GPU if {runner} does; PyTorch finds none: leave it out")


def rival(which: Rival, model: Model, folder: Path, runner: str) -> Callable[[], Runner]:
    """A function that makes the runner of a rival; it can be pickled.

    Args:
        which: the rival.
        model: the model of the export that it is compared with.
        folder: folder for a rival's ONNX file.
        runner: the runner of the exports: the rival runs on the same device, on a GPU in their precision.

    Raises:
        UserError: see `require`.
    """
    require(which, runner)
    kind = kind_of(runner)
    if which.exported:
        return partial(kind.open, _written(which, model, folder), runner)
    device = kind.device
    precision = model.precision if device == "cuda" else "fp32"
    make = partial(encoder_of, which, model)
    return partial(TorchEncoder, which.label, make, model, device, precision, which is Rival.COMPILE)


def _written(which: Rival, model: Model, folder: Path) -> Path:
    """The file of a rival, which several runners may share."""
    if which is Rival.META_INT8:
        path = folder / f"{which}.xml"
        quantize(_written(Rival.META, model, folder), model.image_size, path)
        return path
    path = folder / f"{which}.onnx"
    if not path.exists():
        write_plain_export(which, model, path)
    return path


def quantize(plain: Path, side: int, path: Path) -> None:
    """Write an encoder in 8 bits, as OpenVINO's own nncf makes them of a transformer.

    It is calibrated on one array of noise: weights are random, and what is timed does not depend on ranges.

    Args:
        plain: its ONNX file.
        side: of its pictures.
        path: the file to write, .xml.

    Raises:
        UserError: nncf is not installed.
    """
    ov, nncf = library(), _nncf()
    noise = np.random.default_rng(0).standard_normal((1, 3, side, side), np.float32)
    made = nncf.quantize(
        ov.Core().read_model(plain),
        nncf.Dataset([{IMAGE: noise}]),
        subset_size=1,
        model_type=nncf.ModelType.TRANSFORMER,
    )
    ov.save_model(made, path, compress_to_fp16=False)


def _nncf() -> Any:
    """OpenVINO's own tool for 8 bits.

    Raises:
        UserError: it is not installed.
    """
    try:
        with unreported():
            return importlib.import_module("nncf")
    except ModuleNotFoundError as error:
        raise UserError(f"--rival {Rival.META_INT8} needs {error.name}; pip install nncf") from error


def encoder_of(which: Rival, model: Model) -> Any:
    """Meta's encoder with random weights, and with fused attention if the rival uses it."""
    sam = build_sam(model.arch, model.image_size)
    randomize(sam)
    encoder = sam.image_encoder.eval().requires_grad_(False)
    return encoder if which in (Rival.META, Rival.EAGER) else fuse(encoder)


def write_plain_export(which: Rival, model: Model, path: Path) -> None:
    """Write a rival's graph with PyTorch's exporter, without any further step."""
    image = torch.zeros(1, 3, model.image_size, model.image_size)
    with quiet():
        torch.onnx.export(
            encoder_of(which, model),
            (image,),
            path,
            input_names=[IMAGE],
            output_names=[EMBEDDING],
            opset_version=FUSED.opset if which is Rival.META_FUSED else None,
            dynamo=True,
            verbose=False,
        )
