"""Labelled images, wherever they lie: what `dynamick.data` has for them, under one name."""

from dynamick.data.class_folders import FolderImages, image_folder
from dynamick.data.finding import IMAGES, is_image
from dynamick.data.in_memory import Augmentation, Batches, ImageTensors, check_batch, check_same_classes, evenly_spaced
from dynamick.data.photographs import read_image
from dynamick.data.sources.cifar10 import cifar10

__all__ = [
    "IMAGES",
    "Augmentation",
    "Batches",
    "FolderImages",
    "ImageTensors",
    "check_batch",
    "check_same_classes",
    "cifar10",
    "evenly_spaced",
    "image_folder",
    "is_image",
    "read_image",
]
