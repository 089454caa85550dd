"""What a person is told about a picture that is read otherwise than as it is."""

import sys
from collections.abc import Callable
from typing import TypeAlias

from ..errors import printable

Note: TypeAlias = Callable[[str, str], None]
"""Takes the kind of a remark, the same for all pictures that it is made about, and the remark: one line."""


def say(kind: str, remark: str) -> None:
    """Print a remark on stderr."""
    print(f"note: {printable(remark)}", file=sys.stderr)


class Once:
    """Says the first remark of each kind: for whoever reads many pictures that are alike."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, kind: str, remark: str) -> None:
        """As `say`, and nothing from the second time on."""
        if kind not in self._said:
            self._said.add(kind)
            say(kind, f"{remark} (said once for all pictures)")
