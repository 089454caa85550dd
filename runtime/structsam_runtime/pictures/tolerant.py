"""Pillow's readers, without what they do with metadata that nothing here asks for and that may be damaged."""

from PIL import ExifTags, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import X_RESOLUTION, Y_RESOLUTION, TiffImageFile


class Jpeg(JpegImageFile):
    """The first picture of a file, without the resolution, whose text in place of a number is an error."""

    def _read_dpi_from_exif(self) -> None:
        """Nothing."""


class Tiff(TiffImageFile):
    """The same for TIFF, and without the directories of the camera and of its place."""

    def _setup(self) -> None:
        for tag in (X_RESOLUTION, Y_RESOLUTION):
            del self.tag_v2[tag]
        super()._setup()

    def load_end(self) -> None:
        """Turn the picture upright."""
        ImageOps.exif_transpose(self, in_place=True)
        del self.tag_v2[ExifTags.Base.Orientation]


READERS = {"JPEG": Jpeg, "TIFF": Tiff}
"""Instead of those that Pillow has for these formats."""
