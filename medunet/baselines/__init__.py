"""Segmentation without learning: what a network must beat before it is worth its training."""

from medunet.baselines.intensities import find_voxel
from medunet.baselines.kmeans import cluster_kmeans
from medunet.baselines.otsu import segment_otsu
from medunet.baselines.region_growing import grow_regions
from medunet.baselines.split_touching import split_touching

__all__ = [
    "cluster_kmeans",
    "find_voxel",
    "grow_regions",
    "segment_otsu",
    "split_touching",
]
