"""Pictures with the masks that people drew in them, one reader for each dataset.

    dataset = open_dataset("dis5k", Path("DIS5K"))
    for annotated in dataset:
        image = annotated.image()
        for found in annotated.objects():
            ...  # found.box is the prompt, found.mask is what should come back

Every reader takes the folders as that dataset is distributed; its module shows them as a tree.
"""

from .base import Annotated, Box, Object, box_of
from .registry import DATASETS, Dataset, Source, open_dataset

__all__ = ["DATASETS", "Annotated", "Box", "Dataset", "Object", "Source", "box_of", "open_dataset"]
