"""The second stage of a cascade sees what the first one found, as one channel per label.

From nnU-Net (Isensee 2021, doi:10.1038/s41592-020-01008-z): a network at low resolution sees much of the patient at once and
says where things are; one at full resolution draws their borders.
"""

from __future__ import annotations

import numpy as np

from medunet.preprocessing import preprocess_labels
from medunet.tasks import Task, compute_membership, encode_labels
from medunet.volume import Volume


def append_previous_labels(prepared: Volume, label_map: Volume, task: Task) -> Volume:
    """Put a label map behind the channels of a preprocessed image.

    Args:
        prepared: Result of `preprocess_image`, ``(C, I, J, K)``.
        label_map: ``(1, I, J, K)`` with the values of the task, on any grid with the axes of ``prepared``, such as the
            scan's.
        task: Gives the labels.

    Returns:
        float32 ``(C + labels, I, J, K)`` on the grid of ``prepared``: then one channel per label or region, in the order
        of the task and without background, 1 where the label is and 0 elsewhere.
    """
    codes = preprocess_labels(encode_labels(label_map, task), prepared).array[0]
    membership = compute_membership(task)
    labels = membership if task.has_regions else membership[1:]
    channels_of_code = np.zeros((len(labels), 256), np.float32)  # ignored voxels belong to no label
    channels_of_code[:, : membership.shape[1]] = labels
    return Volume(np.concatenate([prepared.array, channels_of_code[:, codes]]), prepared.affine)
