"""Data in the forms that people have, as splits: image folders and tables of texts."""

from objectives.datasets.image_folder import ImageFolder, image_batches, image_folder
from objectives.datasets.splits import division, orders, require_classes
from objectives.datasets.tables import Rows, text_splits

__all__ = [
    "ImageFolder",
    "Rows",
    "division",
    "image_batches",
    "image_folder",
    "orders",
    "require_classes",
    "text_splits",
]
