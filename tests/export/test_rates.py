"""How much merges where, from what was typed."""

from typing import Any

import pytest

from structsam_export.config import ExportConfig
from structsam_export.rates import merge_rates

PROMPTED = {"prompt_windows": 2, "rate_background": 0.75, "rate_window": 0.35, "rate_global": 0.75}


@pytest.mark.parametrize(
    ("typed", "fields"),
    [
        ({}, {"rate_window": 0.55, "rate_global": 0.55}),
        ({"rate": 0.3, "rate_global": 0.6}, {"rate_window": 0.3, "rate_global": 0.6}),
        ({"prompt_aware": True}, PROMPTED),
        (
            {"prompt_aware": True, "rate": 0.0, "rate_background": 0.7, "prompt_windows": 4},
            {"rate_window": 0.0, "rate_global": 0.7, "rate_background": 0.7, "prompt_windows": 4},
        ),
        (
            {"prompt_aware": True, "rate_window": 0.1, "rate_global": 0.2},
            PROMPTED | {"rate_window": 0.1, "rate_global": 0.2},
        ),
    ],
)
def test_rates_that_were_not_typed_follow_from_those_that_were(
    typed: dict[str, Any], fields: dict[str, Any]
) -> None:
    nothing = dict.fromkeys(("rate", "rate_window", "rate_global", "prompt_windows", "rate_background"))
    assert merge_rates(**nothing | {"prompt_aware": False} | typed) == fields
    ExportConfig("vit_b", **fields)
