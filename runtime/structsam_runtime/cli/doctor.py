"""Show what is installed here and which runners work.

structsam doctor
"""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ..doctor import examine, report
from .console import EXTRAS
from .program import PACKAGES, commands

EXTRA = "export,cpu"


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Libraries, their versions, the GPU, and every runner tried out; the exit code is 0."""
    needy = [name for name, command in commands().items() if not command.module.startswith(PACKAGES[0])]
    found = examine(needy, EXTRAS[EXTRA], EXTRA)
    typer.echo(json.dumps(asdict(found), indent=2) if as_json else report(found))
