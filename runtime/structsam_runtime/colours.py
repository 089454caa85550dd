"""Okabe and Ito's palette, which colour-blind people tell apart too: one for all pictures of the project."""

Colour = tuple[int, int, int]
"""Red, green, blue, 0..255."""

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
ORANGE: Colour = (230, 159, 0)
SKY: Colour = (86, 180, 233)
GREEN: Colour = (0, 158, 115)
YELLOW: Colour = (240, 228, 66)
BLUE: Colour = (0, 114, 178)
VERMILION: Colour = (213, 94, 0)
PURPLE: Colour = (204, 121, 167)

MASKS = (SKY, ORANGE, PURPLE, GREEN, YELLOW, VERMILION, BLUE)
"""Of masks on a photograph, in turn."""
LINES = (VERMILION, BLUE, GREEN, ORANGE, SKY, PURPLE)
"""Of lines on white, in turn: yellow is too pale."""


def code(colour: Colour) -> str:
    """As Matplotlib takes it: #RRGGBB."""
    return "#{:02X}{:02X}{:02X}".format(*colour)
