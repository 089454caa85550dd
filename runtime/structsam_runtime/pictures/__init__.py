"""Pictures in files: which ones a folder holds, and what their pixels are.

for name in list_pictures(folder).pictures:
    rgb = read_image(folder / name)
"""

from .folder import Listing, list_pictures
from .notes import Note, Once, say
from .opening import MAX_PIXELS, Source, opened
from .reading import read_image

__all__ = ["MAX_PIXELS", "Listing", "Note", "Once", "Source", "list_pictures", "opened", "read_image", "say"]
