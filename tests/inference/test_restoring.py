"""The oracle's mask is known at every voxel, so the way to the network's grid and back is exact or it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ORACLE_HU, AboveThresholds  # type: ignore[import-not-found]

from medunet.inference import Segmenter, restore_label_map
from medunet.models import Model
from medunet.preprocessing import preprocess_image
from medunet.tasks import Task
from medunet.volume import Volume, to_orientation

ORIENTATIONS = ["RAS", "LPI", "LAS", "PIR", "SAL", "IPR", "ASL", "RIP"]
