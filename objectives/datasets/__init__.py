"""Data in the forms that people have, as splits: image folders and tables of texts."""

from objectives.datasets.image_folder import ImageFolder, image_batches, image_folder
from objectives.datasets.splits import division, orders
from objectives.datasets.tables import Rows, text_splits

__all__ = [
    "ImageFolder",
    "Rows",
    "division",
    "image_batches",
    "image_folder",
    "orders",
    "text_splits",
]
