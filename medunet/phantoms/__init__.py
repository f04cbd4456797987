"""Synthetic patients with exactly known truth: data for the first use and for the tests; numpy and scipy only."""

from medunet.phantoms.case import Phantom, PhantomCase
from medunet.phantoms.catalogue import PHANTOMS, make_phantom_case
from medunet.phantoms.dataset import write_phantom_dataset

__all__ = ["PHANTOMS", "Phantom", "PhantomCase", "make_phantom_case", "write_phantom_dataset"]
