"""TorchIO's elastic deformation as a MONAI transform that keeps labels, geometry and seeds right.

MONAI's own ``RandTorchIOd`` interpolates labels linearly unless told otherwise, drops the affine, so that millimetres
mean voxels, and is not reached by ``Compose.set_random_state``. TorchIO draws from torch's global generator; here it
gets a forked one with a seed from this transform's own state.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform


class RandTorchIOElasticd(RandomizableTransform, MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """Deform an image and its label map by the same random B-spline field.

    Args:
        keys: The image and the label map in the dictionary, as ``MetaTensor`` with affines in mm.
        label_keys: Which of them are label maps, interpolated by nearest neighbour.
        prob: Probability.
        num_control_points: Per axis, at least 4.
        max_displacement_mm: Per axis.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        label_keys: KeysCollection,
        prob: float,
        num_control_points: int,
        max_displacement_mm: tuple[float, float, float],
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.label_keys = set(label_keys if not isinstance(label_keys, str) else [label_keys])
        self.num_control_points = num_control_points
        self.max_displacement_mm = max_displacement_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Deform with probability ``prob``; other entries pass through."""
        changed = dict(data)
        self.randomize(None)
        seed = int(self.R.randint(2**31))
        if not self._do_transform:
            return changed
        subject = self._build_subject(changed)
        deformed = self._deform(subject, seed)
        for key in self.key_iterator(changed):
            before: MetaTensor = changed[key]
            after: Any = MetaTensor(
                deformed[str(key)].data.to(before.dtype),
                meta=dict(before.meta),  # it holds the affine; MONAI warns when given both
                applied_operations=before.applied_operations,
            )
            changed[key] = after
        return changed

    def _build_subject(self, data: Mapping[Hashable, Any]) -> Any:
        import torchio as tio

        images = {}
        for key in self.key_iterator(data):
            kind = tio.LabelMap if key in self.label_keys else tio.ScalarImage
            tensor = data[key].as_tensor().cpu()
            # TorchIO hands the voxels to SimpleITK, which has no float16.
            images[str(key)] = kind(tensor=tensor.float(), affine=data[key].affine.cpu().numpy())
        return tio.Subject(**images)

    def _deform(self, subject: Any, seed: int) -> Any:
        import torchio as tio

        transform = tio.RandomElasticDeformation(
            num_control_points=self.num_control_points, max_displacement=self.max_displacement_mm, locked_borders=0
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return transform(subject)
