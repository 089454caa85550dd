"""One table of many exports: rates, cost, and agreement with PyTorch.

python scripts/summarize.py OUT [OUT ...] -o benchmarks/methods.json
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from structsam_runtime import Manifest
from structsam_runtime.benchmarking.tables import check_result, markdown, write_result
from structsam_runtime.cli.console import run
from structsam_runtime.manifest import gmac

COLUMNS = {
    "name": "export",
    "removed": "removed (window / global)",
    "gmac": "GMAC",
    "plans": "same merges",
    "error": "error, same merges",
    "mask_iou": "mask IoU",
    "engine": "engine",
}


def main(
    outs: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Output folders of structsam export.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result, .json; the table is written beside it as .md.")
    ],
) -> None:
    """Collect the measurements of verification from manifests, as JSON and Markdown."""
    check_result(output)
    rows = [row(out) for out in outs]
    text = table(rows)
    write_result(output, rows, text)
    typer.echo(text)


def row(out: Path) -> dict[str, Any]:
    """The row of one export, from its manifest."""
    Manifest.read(out)  # raises if the folder is no export
    content = json.loads((out / "manifest.json").read_text())
    verification, macs, engine = content["verification"], content["macs"], content["engine"]
    return {
        "name": content["name"],
        "removed": {kind: counts["effective_rate"] for kind, counts in content["merging"].items()},
        "gmac": round(gmac(content), 2),
        "gmac_planning": round(macs["planning"] / 1e9, 3),
        "plans": verification["plans"],
        "error": verification["error"],
        "mask_iou": verification["mask_iou"],
        "images": verification["images"],
        "prompts": verification["prompts"],
        "runner": verification["runner"],
        "engine": None if engine is None else f"{engine['library']} {engine['version']}",
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The result as Markdown."""
    return markdown([list(COLUMNS.values()), *(cells(one) for one in rows)]) + "\n"


def cells(one: dict[str, Any]) -> list[str]:
    """A row's numbers as text; missing numbers are empty."""
    shown = {
        "removed": " / ".join(
            f"{one['removed'][kind]:.1%}" for kind in ("window", "global") if one["removed"]
        ),
        "gmac": f"{one['gmac']:.1f}",
        "plans": "" if one["plans"] is None else f"{one['plans']:.2%}",
        "error": "" if one["error"] is None else f"{one['error']:.1e}",
        "mask_iou": f"{one['mask_iou']:.4f}",
        "engine": one["engine"] or "",
    }
    return [shown.get(name, one[name]) for name in COLUMNS]


if __name__ == "__main__":
    run(main)
