"""How much merges where, from what was typed."""

from __future__ import annotations

from typing import Any

from structsam_runtime.errors import UserError

RATE = 0.55
RATE_PROMPT, RATE_BACKGROUND, PROMPT_WINDOWS = 0.35, 0.75, 2
"""Of a prompt-aware encoder: Table 1's 283.0 GMAC on ViT-B."""


def merge_rates(
    rate: float | None,
    rate_window: float | None,
    rate_global: float | None,
    prompt_aware: bool,
    prompt_windows: int | None,
    rate_background: float | None,
) -> dict[str, Any]:
    """The four fields of ExportConfig that say how much merges where, from what was typed; None was not.

    Args:
        rate: of all blocks; where the encoder knows prompts, of the windows with the most prior.
        rate_window, rate_global: instead of `rate` and of `rate_background`, by kind of block.
        prompt_aware: whether it knows prompts.
        prompt_windows, rate_background: see ExportConfig.

    Raises:
        UserError: options of prompt-aware merging without it.
    """
    if prompt_aware:
        rate, around = RATE_PROMPT if rate is None else rate, rate_background
        around = RATE_BACKGROUND if around is None else around
        number = PROMPT_WINDOWS if prompt_windows is None else prompt_windows
        prompt: dict[str, Any] = {"prompt_windows": number, "rate_background": around}
    else:
        given = {"--prompt-windows": prompt_windows, "--rate-background": rate_background}
        if alone := [name for name, value in given.items() if value is not None]:
            raise UserError(f"{' and '.join(alone)} without --prompt-aware would do nothing; add it")
        rate = around = RATE if rate is None else rate
        prompt = {}
    return {
        "rate_window": rate if rate_window is None else rate_window,
        "rate_global": around if rate_global is None else rate_global,
        **prompt,
    }
