"""`InstanceRules`: how objects are told apart after the network, as the model folder's ``instances.json``."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

INSTANCES_VERSION = 1

_Share = Annotated[float, Field(gt=0, lt=1)]


class ObjectRule(BaseModel):
    """How the objects of one label are told apart.

    Attributes:
        marker_threshold: A voxel whose probability of being body is at least this belongs to the seed of an object.
        mask_threshold: A voxel whose probability of body and border together is at least this belongs to some object.
        min_volume_mm3: Smaller objects are removed; in a picture with pixels of 1 mm, square pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    marker_threshold: _Share = 0.5
    mask_threshold: _Share = 0.5
    min_volume_mm3: Annotated[float, Field(ge=0)] = 0.0


class InstanceRules(BaseModel):
    """How the objects of every label are told apart.

    Attributes:
        version: Of this format.
        labels: Label of objects -> rule.
        num_cases: Validation cases that decided; 0 where nothing was tried.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = INSTANCES_VERSION
    labels: dict[str, ObjectRule] = {}
    num_cases: int = 0

    def get_rule(self, label: str) -> ObjectRule:
        """The rule of a label; the default one where nothing is known of it."""
        return self.labels.get(label, ObjectRule())

    def describe(self) -> str:
        """One phrase for people.

        Example:
            >>> InstanceRules(labels={"nucleus": ObjectRule(min_volume_mm3=12.25)}).describe()
            'nucleus: seeds from 0.5, objects from 0.5, at least 12.2 mm3'
        """
        return "; ".join(
            f"{label}: seeds from {rule.marker_threshold:g}, objects from {rule.mask_threshold:g}, "
            f"at least {rule.min_volume_mm3:.3g} mm3"
            for label, rule in self.labels.items()
        )


def combine_instance_rules(members: list[InstanceRules]) -> InstanceRules:
    """The rules of an ensemble: for every label the medians over its members.

    Args:
        members: One or more.
    """
    from statistics import median

    labels = {
        label: ObjectRule(
            marker_threshold=median(one.get_rule(label).marker_threshold for one in members),
            mask_threshold=median(one.get_rule(label).mask_threshold for one in members),
            min_volume_mm3=median(one.get_rule(label).min_volume_mm3 for one in members),
        )
        for label in dict.fromkeys(label for one in members for label in one.labels)
    }
    return InstanceRules(labels=labels, num_cases=sum(one.num_cases for one in members))
