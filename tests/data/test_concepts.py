"""What any data set of concepts offers: parts of samples, and a view of some of its images."""

import pytest
import torch
from torch import Tensor

from dynamick.data.concepts import Label, Sample, image_of, maps_of, name_of, part
from dynamick.errors import InputError


class Least:
    """No more than a data set must have."""

    labels = (Label(1, "red", "colour"),)
    categories = ("colour",)
    map_size = (2, 2)

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Sample:
        maps = {"colour": torch.full((1, 2, 2), index)}
        return Sample(f"{index}.png", torch.full((3, 2, 2), index, dtype=torch.uint8), maps)


class Apart(Least):
    """Decodes only what is asked for."""

    def __getitem__(self, index: int) -> Sample:
        raise AssertionError("the whole sample was decoded")

    def name(self, index: int) -> str:
        return f"{index}.png"

    def image(self, index: int) -> Tensor:
        return Least.__getitem__(self, index).image

    def maps(self, index: int) -> dict[str, Tensor]:
        return Least.__getitem__(self, index).maps


@pytest.mark.parametrize("whole", [Least(), Apart()])
def test_a_part_is_a_data_set_of_the_images_at_its_places(whole: Least) -> None:
    some = part(whole, [4, 0, 2])
    assert (len(some), some.labels, some.categories, some.map_size) == (3, whole.labels, ("colour",), (2, 2))
    for place, index in enumerate([4, 0, 2]):
        name, image = image_of(some, place)
        assert name == name_of(some, place) == name_of(whole, index)
        assert int(image[0, 0, 0]) == index
        assert int(maps_of(some, place)[1]["colour"][0, 0, 0]) == index
    assert part(Least(), [3])[0].name == "3.png"


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.zeros(3, 2, 2, dtype=torch.int64), "3.png: torch.int64 is no image type; give uint8 or floating point"),
        (torch.zeros(3, 2, 2, dtype=torch.bool), "3.png: torch.bool is no image type; give uint8 or floating point"),
        (torch.tensor([-2.0, 2.5, 0.0])[:, None, None], "3.png: values from -2 to 2.5; give uint8, or 0..1"),
        (torch.full((3, 2, 2), 255.0), "3.png: values from 255 to 255; give uint8, or 0..1"),
        (torch.full((3, 2, 2), float("nan")), "3.png: values from nan to nan; give uint8, or 0..1"),
        (torch.zeros(2, 2), "3.png: its image is of shape (2, 2); give (3, H, W)"),
        (torch.zeros(2, 2, 3), "3.png: its image is of shape (2, 2, 3); give (3, H, W)"),
        ([[0]], "3.png: list is no image type; give uint8 or floating point"),
    ],
)
def test_images_of_other_types_and_ranges_are_named(image: Tensor, said: str) -> None:
    class Own(Least):
        def __getitem__(self, index: int) -> Sample:
            return Sample(f"{index}.png", image, {})

    with pytest.raises(InputError) as raised:
        image_of(Own(), 3)
    assert str(raised.value) == said


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        ({"colour": [[1]]}, "3.png: the colour labels are a list; give a tensor of shape (maps, h, w)"),
        ({"shape": torch.ones(1, 2, 2)}, "3.png: labelled in shape, which is none of the data set's categories (colour)"),
    ],
)
def test_maps_that_are_none_are_named(maps: dict[str, Tensor], said: str) -> None:
    class Own(Least):
        def __getitem__(self, index: int) -> Sample:
            return Sample(f"{index}.png", torch.zeros(3, 2, 2, dtype=torch.uint8), maps)

    with pytest.raises(InputError) as raised:
        maps_of(Own(), 3)
    assert str(raised.value) == said
