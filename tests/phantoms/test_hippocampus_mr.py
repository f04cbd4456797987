from __future__ import annotations

import numpy as np

from medunet.phantoms import make_phantom_case
from medunet.volume import Volume


def compute_center(labels: Volume, value: int) -> np.ndarray:
    return (labels.affine @ [*np.argwhere(labels.array[0] == value).mean(axis=0), 1.0])[:3]


def test_same_seed_same_bytes(hippocampus_cases):
    again = make_phantom_case("hippocampus-mr", 7)
    assert again.image.array.tobytes() == hippocampus_cases[7].image.array.tobytes()
    assert again.labels.array.tobytes() == hippocampus_cases[7].labels.array.tobytes()
    assert again.image.array.tobytes() != hippocampus_cases[8].image.array.tobytes()


def test_crops_are_small_and_vary(hippocampus_cases):
    shapes = {case.image.spatial_shape for case in hippocampus_cases.values()}
    assert len(shapes) > 8
    assert min(min(shape) for shape in shapes) >= 30
    assert max(max(shape) for shape in shapes) <= 55


def test_both_parts_have_a_plausible_volume(hippocampus_cases):
    for case in hippocampus_cases.values():
        anterior, posterior = ((case.labels.array == value).sum() / 1000 for value in (1, 2))
        assert 0.8 < anterior < 3.0
        assert 0.7 < posterior < 3.0


def test_anterior_lies_in_front_and_touches_posterior(hippocampus_cases):
    for case in hippocampus_cases.values():
        assert compute_center(case.labels, 1)[1] > compute_center(case.labels, 2)[1] + 8
        labels = case.labels.array[0]
        assert ((labels[:, 1:] == 1) & (labels[:, :-1] == 2)).sum() > 20


def test_intensities_are_positive_and_their_scale_means_nothing(hippocampus_cases):
    means = [float(case.image.array.mean()) for case in hippocampus_cases.values()]
    assert min(float(case.image.array.min()) for case in hippocampus_cases.values()) >= 0
    assert max(means) / min(means) > 3
    assert {case.image.array.dtype.type for case in hippocampus_cases.values()} == {np.float32, np.int16}


def test_hippocampus_is_darker_than_white_matter_and_brighter_than_fluid(hippocampus_cases):
    for case in hippocampus_cases.values():
        image, inside = case.image.array, case.labels.array > 0
        low, high = np.percentile(image, [1, 95])
        assert low < image[inside].mean() < high
        assert image[inside].mean() / high < 0.85
