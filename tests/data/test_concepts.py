"""What any data set of concepts offers: parts of samples, and a view of some of its images."""

import pytest
import torch
from torch import Tensor

from dynamick.data.concepts import Label, Sample, image_of, maps_of, name_of, part


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
