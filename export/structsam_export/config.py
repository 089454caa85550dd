"""What an export is asked to be."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from structsam_runtime.errors import UserError

from .architectures import ARCHITECTURES, PATCH, WINDOW, Architecture
from .choices import Channels, Destination, Engine, Flatness, Gradient, MethodName, Selection
from .merging import Identity, Method, StructSAM


@dataclass(frozen=True)
class ExportConfig:
    """Everything that decides what an export contains.

    Attributes:
        arch: a name in ARCHITECTURES.
        checkpoint: a state dict; None downloads Meta's, unless random_weights.
        random_weights: seeded weights instead of trained ones.
        method: how tokens merge.
        rate_window, rate_global: share of tokens removed in window and in global blocks.
        skip_blocks: blocks that do not merge.
        cell: s, tokens along a cell's side.
        gradient, channels, flatness, selection, cells, destination: see StructSAM; ablations of Table 4.
        seed: of random weights and of random choices; block i draws with seed + i.
        image_size: S, pixels along the side of the encoder's input.
        fp16: half precision with fp32 islands.
        dynamic_batch: leave the encoder's batch open; otherwise it is 1.
        engine: build engines too.
    """

    arch: str
    checkpoint: Path | None = None
    random_weights: bool = False
    method: MethodName = MethodName.STRUCTSAM
    rate_window: float = 0.55
    rate_global: float = 0.55
    skip_blocks: tuple[int, ...] = ()
    cell: int = 2
    gradient: Gradient = Gradient.SOBEL
    channels: Channels = Channels.FULL
    flatness: Flatness = Flatness.MAX
    selection: Selection = Selection.FLATNESS
    cells: bool = True
    destination: Destination = Destination.MIN
    seed: int = 0
    image_size: int = 1024
    fp16: bool = False
    dynamic_batch: bool = False
    engine: Engine | None = None

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise UserError(f"--arch {self.arch} is unknown; expected one of {', '.join(ARCHITECTURES)}")
        if self.image_size % PATCH or not 64 <= self.image_size <= 4096:
            raise UserError(
                f"--image-size {self.image_size} is not a multiple of {PATCH} from 64 to 4096; "
                "SAM was trained at 1024"
            )
        self._check_cell()
        self._check_rates()
        depth = self.architecture.depth
        if any(not 0 <= block < depth for block in self.skip_blocks):
            raise UserError(
                f"--skip-blocks {','.join(map(str, self.skip_blocks))} names a block that {self.arch} does "
                f"not have; expected numbers from 0 to {depth - 1}"
            )

    def _check_cell(self) -> None:
        grid = self.image_size // PATCH
        common = math.gcd(WINDOW, grid)
        fitting = [str(cell) for cell in range(2, common + 1) if common % cell == 0]
        if str(self.cell) not in fitting:
            raise UserError(
                f"--cell {self.cell} does not divide both the window of {WINDOW} x {WINDOW} tokens and the "
                f"feature map of {grid} x {grid}; expected {' or '.join(fitting) or 'another --image-size'}"
            )

    def _check_rates(self) -> None:
        limit = 1 - 1 / self.cell**2
        for kind, rate in (("window", self.rate_window), ("global", self.rate_global)):
            if not 0 <= rate <= limit:  # also refuses NaN
                raise UserError(
                    f"the rate of {kind} blocks is {rate:g}; expected 0 to {limit:g}, since cells of "
                    f"{self.cell} x {self.cell} tokens cannot lose more"
                )

    @property
    def architecture(self) -> Architecture:
        """What `arch` stands for."""
        return ARCHITECTURES[self.arch]

    @property
    def precision(self) -> str:
        """`fp32` or `fp16`."""
        return "fp16" if self.fp16 else "fp32"

    @property
    def name(self) -> str:
        """What the output folder is called unless the user says otherwise."""
        window, whole = f"{self.rate_window * 100:g}", f"{self.rate_global * 100:g}"
        rate = f"r{window}" if window == whole else f"r{window}w{whole}g"
        return f"{self.arch}-{self.method}-{rate}-{self.precision}"

    def as_json(self) -> dict[str, Any]:
        """The arguments as JSON has them; `from_json` reads them back."""
        values = asdict(self) | {"skip_blocks": list(self.skip_blocks)}
        return values | {"checkpoint": None if self.checkpoint is None else str(self.checkpoint)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ExportConfig:
        """The config that an export was made with."""
        return cls(
            **values
            | {
                "checkpoint": None if values["checkpoint"] is None else Path(values["checkpoint"]),
                "skip_blocks": tuple(values["skip_blocks"]),
                "method": MethodName(values["method"]),
                "gradient": Gradient(values["gradient"]),
                "channels": Channels(values["channels"]),
                "flatness": Flatness(values["flatness"]),
                "selection": Selection(values["selection"]),
                "destination": Destination(values["destination"]),
                "engine": None if values["engine"] is None else Engine(values["engine"]),
            }
        )

    def methods(self) -> list[Method]:
        """How each block merges."""
        return [self._method(index) for index in range(self.architecture.depth)]

    def _method(self, index: int) -> Method:
        rate = self.rate_global if index in self.architecture.global_blocks else self.rate_window
        if rate == 0 or index in self.skip_blocks:
            return Identity()
        return StructSAM(
            rate=rate,
            cell=self.cell,
            gradient=self.gradient,
            flatness=self.flatness,
            selection=self.selection,
            cells=self.cells,
            destination=self.destination,
            heads=self.architecture.heads if self.channels is Channels.HEADS else 1,
            seed=self.seed + index,
        )
