"""Options of every command that looks at a model in PyTorch. `export` groups its own under headings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .models.architectures import ARCHITECTURES, DEFAULT
from .models.family import FAMILIES

Arch = Annotated[
    str | None,
    typer.Option(help=f"{', '.join(ARCHITECTURES)}. Default: the checkpoint's, else {DEFAULT}."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Your own weights. Default: shipped, or Meta's, downloaded."),
]
RandomWeights = Annotated[bool, typer.Option("--random-weights", help="Seeded random weights; no download.")]
WeightsFamily = Annotated[
    str, typer.Option(help=f"What weights were trained as: {' or '.join(FAMILIES)}. Default: sam.")
]
ImageSize = Annotated[
    int,
    typer.Option(metavar="INT", help="Side of the input in pixels; 0: the size of the architecture."),
]
