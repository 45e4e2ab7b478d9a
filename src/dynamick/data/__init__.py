"""Labelled images: generated scenes, real sets, and Broden's format. Each name is imported when it is first used."""

from typing import Any

from dynamick.discovery import home_of

_HOME = {
    "Augmentation": "dynamick.data.in_memory",
    "Batches": "dynamick.data.in_memory",
    "Broden": "dynamick.data.broden",
    "ComposedScenes": "dynamick.data.scenes",
    "ConceptFolder": "dynamick.data.folder",
    "DataRecipe": "dynamick.data.recipe",
    "FolderImages": "dynamick.data.class_folders",
    "ImageTensors": "dynamick.data.in_memory",
    "Label": "dynamick.data.concepts",
    "LabelledImages": "dynamick.data.labelled",
    "Sample": "dynamick.data.concepts",
    "check": "dynamick.data.checking",
    "cifar10": "dynamick.data.sources.cifar10",
    "folder_recipe": "dynamick.data.recipe",
    "image_folder": "dynamick.data.class_folders",
    "open_concepts": "dynamick.data.checking",
    "open_images": "dynamick.data.recipe",
    "part": "dynamick.data.concepts",
    "read_image": "dynamick.data.photographs",
    "read_pictures": "dynamick.data.pictures",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    return home_of(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted(__all__)
