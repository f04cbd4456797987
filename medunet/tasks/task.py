"""A task: what is to be segmented in which images, as one validated YAML file."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medunet.errors import TaskError
from medunet.io.structures import Code
from medunet.tasks.mask_steps import MaskStep, OnePerSide, StepField
from medunet.tasks.modality import Modality, is_picture
from medunet.tasks.suggestion import suggest

IntensityRule = Literal["ct-window", "ct-percentile", "zscore", "none"]
OutputKind = Literal["labels", "instances", "panoptic"]
LabelValues = tuple[int, ...]
_MAX_CODES = 254
_MAX_LETTERS = 200
_BORDER = " border"


class Task(BaseModel):
    """What is to be segmented in which images.

    Attributes:
        name: Short name, the one of ``--task``.
        title: One line for people.
        modality: ``"CT"``, ``"MR"``, ``"photo"`` or ``"microscopy"``, see `medunet.tasks.modality`.
        channels: Names of the input channels in the order of the files; the colours of a picture in the order R, G, B.
        labels: Label name -> values in the label files. Several values make a region; regions may overlap.
        ignore: Value in the label files that is neither learnt nor scored.
        laterality: Pairs ``(left, right)`` of label names; mirroring a patient swaps them.
        intensity: How intensities are brought to the network's range.
        window_hu: Lower and upper HU of ``ct-window``.
        codes: Label name -> coded term.
        synonyms: Label name -> other names that structure lists (RTSTRUCT, DICOM SEG) use for it; case, spaces and
            ``_-.`` make no difference.
        tolerances_mm: Label name -> distance in mm up to which two surfaces agree, for the NSD of an evaluation.
        postprocessing: Label name -> steps that are taken after the network, in this order; labels that are not named here
            get what validation finds to help.
        output: ``"labels"``: a value per voxel. ``"instances"``: label files hold a value per object, and objects that
            touch are told apart. ``"panoptic"``: some labels are objects, the others are not counted (tissue).
        things: Labels that are objects; all of them, for ``"instances"``.
        label_divisor: With several labels: a file holds the label's value times this, plus the number of the object
            (as in https://doi.org/10.1109/CVPR.2019.00963). None: every positive value is an object of the one label.
        border_mm: Thickness of the border that is learnt within each object; None: two of a case's finest voxels.
        phantom: Synthetic data that stand in when no data are given.
        budget: Training budget when none is given, such as ``"10min"`` or ``"5000it"``.

    For every label of objects a task gets a second one, ``"nucleus border"``, with a free value: the network learns what
    lies within an object and its border as two classes (`medunet.tasks.instances`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    title: str
    modality: Modality
    channels: Annotated[tuple[str, ...], Field(min_length=1)]
    labels: Annotated[dict[str, LabelValues], Field(min_length=1)]
    ignore: int | None = None
    laterality: tuple[tuple[str, str], ...] = ()
    intensity: IntensityRule
    window_hu: tuple[float, float] | None = None
    codes: dict[str, Code] = {}
    synonyms: dict[str, tuple[str, ...]] = {}
    tolerances_mm: dict[str, float] = {}
    postprocessing: dict[str, tuple[StepField, ...]] = {}
    output: OutputKind = "labels"
    things: tuple[str, ...] = ()
    label_divisor: int | None = None
    border_mm: float | None = None
    phantom: str | None = None
    budget: str = "30min"

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, content: Any) -> Any:
        return _add_borders(content) if isinstance(content, dict) else content

    @field_validator("labels", mode="before")
    @classmethod
    def _listify(cls, labels: Any) -> Any:
        if not isinstance(labels, dict):
            return labels
        return {name: value if isinstance(value, (list, tuple)) else (value,) for name, value in labels.items()}

    @field_validator("synonyms", mode="before")
    @classmethod
    def _listify_synonyms(cls, synonyms: Any) -> Any:
        if not isinstance(synonyms, dict):
            return synonyms
        return {name: (others,) if isinstance(others, str) else others for name, others in synonyms.items()}

    @field_validator("postprocessing", mode="before")
    @classmethod
    def _listify_steps(cls, postprocessing: Any) -> Any:
        if not isinstance(postprocessing, dict):
            return postprocessing
        return {
            label: (steps,) if isinstance(steps, (str, dict, MaskStep)) else steps
            for label, steps in postprocessing.items()
        }

    @model_validator(mode="after")
    def _check(self) -> Task:
        self._check_names()
        for name, values in self.labels.items():
            if not values or 0 in values or min(values) < 0 or len(set(values)) != len(values):
                msg = f"label '{name}' has the values {list(values)}; expected distinct positive integers (0 is background)"
                raise ValueError(msg)
        num_codes = len(self.all_values) if self.has_regions else len(self.labels)
        if num_codes > _MAX_CODES:
            msg = f"labels: there are {num_codes}; at most {_MAX_CODES} fit into a byte beside background and ignored voxels"
            raise ValueError(msg)
        if self.ignore is not None and self.ignore <= 0:
            msg = f"ignore: {self.ignore} is no value of its own; expected a positive integer (0 is background)"
            raise ValueError(msg)
        if self.ignore is not None and self.ignore in self.all_values:
            msg = f"ignore: {self.ignore} is also the value of a label"
            raise ValueError(msg)
        for name in [name for pair in self.laterality for name in pair] + [
            *self.codes,
            *self.synonyms,
            *self.tolerances_mm,
            *self.postprocessing,
        ]:
            if name not in self.labels:
                msg = f"'{name}' is not among the labels; {suggest(name, self.labels)}"
                raise ValueError(msg)
        for left, right in self.laterality:
            if len(self.labels[left]) != len(self.labels[right]):
                msg = f"laterality: '{left}' and '{right}' have different numbers of values, so they cannot be swapped"
                raise ValueError(msg)
        self._check_laterality()
        if (self.intensity == "ct-window") != (self.window_hu is not None):
            msg = "window_hu belongs to intensity: ct-window, and only to it"
            raise ValueError(msg)
        if self.intensity.startswith("ct-") and is_picture(self.modality):
            msg = f"intensity: {self.intensity} is for HU, which a {self.modality} has none of; expected zscore or none"
            raise ValueError(msg)
        if self.window_hu is not None and not -math.inf < self.window_hu[0] < self.window_hu[1] < math.inf:
            msg = f"window_hu {list(self.window_hu)} must rise from one finite number to another"
            raise ValueError(msg)
        self._check_synonyms()
        self._check_postprocessing()
        for name, tolerance_mm in self.tolerances_mm.items():
            if not 0 <= tolerance_mm < math.inf:
                msg = f"tolerances_mm: {tolerance_mm} of label '{name}' is no distance; expected a number from 0 on"
                raise ValueError(msg)
        if self.has_regions:
            self.compute_region_values()
        self._check_instances()
        return self

    @property
    def has_regions(self) -> bool:
        """Whether labels share values, so that a voxel can belong to several."""
        values = [value for label in self.labels.values() for value in label]
        return len(values) != len(set(values))

    @property
    def has_instances(self) -> bool:
        """Whether label files and masks hold a value per object."""
        return self.output != "labels"

    @property
    def borders(self) -> dict[str, str]:
        """Label of objects -> the label of their border."""
        return {name: f"{name}{_BORDER}" for name in self.things}

    @property
    def semantic_labels(self) -> dict[str, LabelValues]:
        """The labels that people know: without the borders, which only the network knows."""
        borders = set(self.borders.values())
        return {name: values for name, values in self.labels.items() if name not in borders}

    @property
    def all_values(self) -> tuple[int, ...]:
        """Every value that a label file may hold besides background and ignore, rising."""
        return tuple(sorted({value for label in self.labels.values() for value in label}))

    @property
    def num_outputs(self) -> int:
        """Channels of the network's output: background and labels, or one per region."""
        return len(self.labels) + (0 if self.has_regions else 1)

    def compute_region_values(self) -> list[tuple[str, int]]:
        """The order in which regions are painted into a label map, and the value that each paints.

        Large regions come first; each paints the value that no later region holds: whole tumour {1, 2, 3}, core
        {2, 3} and enhancing {3} paint 1, 2 and 3.

        Raises:
            ValueError: If a region has no value of its own, so that a label map cannot express it.
        """
        self._check_nesting()
        order = sorted(self.labels, key=lambda name: -len(self.labels[name]))
        painted = []
        for position, name in enumerate(order):
            later = {value for other in order[position + 1 :] for value in self.labels[other]}
            own = [value for value in self.labels[name] if value not in later]
            if not own:
                msg = (
                    f"region '{name}' has no value of its own beside the regions within it; a label map cannot show it"
                )
                raise ValueError(msg)
            painted.append((name, own[0]))
        return painted

    def _check_names(self) -> None:
        """Names stand in files and tables; masks would refuse others (`medunet.io.label_names`), after the training."""
        for what, names in (("channels", self.channels), ("labels", tuple(self.labels))):
            for name in names:
                if not name.strip() or len(name) > _MAX_LETTERS or re.search(r"[\x00-\x1f\x7f]", name):
                    msg = f"{what}: {name[:40]!r} is no name; expected one line of 1 to {_MAX_LETTERS} letters"
                    raise ValueError(msg)
                if names.count(name) > 1:
                    msg = f"{what}: '{name}' is there twice; expected a name for each"
                    raise ValueError(msg)

    def _check_laterality(self) -> None:
        """Swapping twice must give back what was there: every label, and every value of regions, has one other side."""
        other_side: dict[int | str, int | str] = {}
        for left, right in self.laterality:
            pairs: list[tuple[int | str, int | str]] = [(left, right)]
            if self.has_regions:
                pairs += zip(self.labels[left], self.labels[right], strict=True)
            for one, other in pairs:
                if (
                    one == other
                    or other_side.setdefault(one, other) != other
                    or other_side.setdefault(other, one) != one
                ):
                    what = f"'{one}' and '{other}'" if isinstance(one, str) else f"the values {one} and {other}"
                    msg = (
                        f"laterality: the pair '{left}' and '{right}' swaps {what}, but not with each other alone; expected "
                        "each label in one pair, and the values of regions in the same order on both sides"
                    )
                    raise ValueError(msg)

    def _check_synonyms(self) -> None:
        """A name in a file must not lead to two labels."""
        claimed = {fold_name(label): (label, "the name") for label in self.labels}
        for label, synonyms in self.synonyms.items():
            for synonym in synonyms:
                folded = fold_name(synonym)
                if not folded:
                    msg = f"synonyms: '{synonym}' of label '{label}' holds no letter; expected a name"
                    raise ValueError(msg)
                owner, how = claimed.setdefault(folded, (label, "a synonym"))
                if owner != label:
                    msg = f"synonyms: '{synonym}' of label '{label}' is also {how} of label '{owner}'"
                    raise ValueError(msg)

    def _check_postprocessing(self) -> None:
        """A step for paired organs needs a pair."""
        paired = {name for pair in self.laterality for name in pair}
        for name, steps in self.postprocessing.items():
            if any(isinstance(step, OnePerSide) for step in steps) and (name not in paired or self.has_regions):
                msg = (
                    f"postprocessing: {OnePerSide.name} of '{name}' needs a pair of plain labels; expected '{name}' in a pair "
                    "of laterality, and no regions"
                )
                raise ValueError(msg)

    def _check_instances(self) -> None:
        """What instances need, and what makes no sense without them."""
        if not self.has_instances:
            for key in ("things", "label_divisor", "border_mm"):
                if getattr(self, key):
                    msg = f"{key} belongs to output: instances and output: panoptic, and only to them"
                    raise ValueError(msg)
            return
        if self.has_regions or any(len(values) > 1 for values in self.labels.values()):
            msg = f"output: {self.output} needs labels with one value each; a label here has several"
            raise ValueError(msg)
        labels = self.semantic_labels
        if unknown := [name for name in self.things if name not in labels]:
            msg = f"things: '{unknown[0]}' is not among the labels; {suggest(unknown[0], labels)}"
            raise ValueError(msg)
        if self.output == "instances" and set(self.things) != set(labels):
            msg = "things: with output: instances all labels are objects; say output: panoptic if some are not"
            raise ValueError(msg)
        if not self.things:
            msg = "things: no label is named; expected those that are objects, or output: labels"
            raise ValueError(msg)
        if stepped := [name for name in self.postprocessing if name in self.things]:
            msg = (
                f"postprocessing: '{stepped[0]}' is a label of objects, which steps would change before they are told apart; "
                "name labels that are no objects"
            )
            raise ValueError(msg)
        if len(labels) > 1 and self.label_divisor is None:
            msg = (
                f"label_divisor: there are {len(labels)} labels, so files must say which object is of which; expected a number "
                "such as 1000: value = label * 1000 + object"
            )
            raise ValueError(msg)
        if self.label_divisor is not None and self.label_divisor < 2:
            msg = f"label_divisor: {self.label_divisor} leaves no numbers for objects; expected 2 or more, such as 1000"
            raise ValueError(msg)
        if self.border_mm is not None and not 0 < self.border_mm < math.inf:
            msg = f"border_mm: {self.border_mm} is no thickness; expected millimetres above 0"
            raise ValueError(msg)

    def _check_nesting(self) -> None:
        """A label map holds one value per voxel, so it can show regions within each other, but not any overlap."""
        for name, other in itertools.combinations(self.labels, 2):
            values, others = set(self.labels[name]), set(self.labels[other])
            if values & others and not (values <= others or others <= values):
                msg = f"regions '{name}' and '{other}' overlap without one lying within the other; a label map cannot show it"
                raise ValueError(msg)


def _add_borders(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a recipe with a border for every label of objects; a second time changes nothing.

    What is faulty stays as it is: the checks of the fields name it.
    """
    labels, things = content.get("labels"), content.get("things", ())
    if content.get("output", "labels") == "labels" or not isinstance(labels, dict):
        return content
    if not isinstance(things, (list, tuple)) or not all(isinstance(name, str) for name in (*labels, *things)):
        return content
    if content["output"] == "instances" and not things:
        things = tuple(labels)
    borders = {name: f"{name}{_BORDER}" for name in things if name in labels and f"{name}{_BORDER}" not in labels}
    values = [value for one in labels.values() for value in (one if isinstance(one, (list, tuple)) else (one,))]
    if not all(isinstance(value, int) for value in values):
        return content
    free = (value for value in itertools.count(max(values, default=0) + 1) if value != content.get("ignore"))
    laterality = content.get("laterality", ())
    pairs = [
        (borders[left], borders[right])
        for left, right in (pair for pair in laterality if isinstance(pair, (list, tuple)) and len(pair) == 2)
        if left in borders and right in borders
    ]
    return content | {
        "things": tuple(things),
        "labels": labels | {border: next(free) for border in borders.values()},
        "laterality": (*laterality, *pairs),
    }


def parse_task(content: Any, source: str) -> Task:
    """Validate what a YAML or JSON file holds.

    Args:
        content: The parsed file.
        source: What messages call it.

    Raises:
        TaskError: With the first fault: the key, what was found, what was expected; unknown keys name the nearest.
    """
    if not isinstance(content, dict):
        msg = f"{source} is no task recipe; expected keys such as {', '.join(list(Task.model_fields)[:6])}."
        raise TaskError(msg)
    unknown = [key for key in content if key not in Task.model_fields]
    if unknown:
        msg = f"{source} has the unknown key '{unknown[0]}'; {suggest(str(unknown[0]), Task.model_fields)}"
        raise TaskError(msg)
    try:
        return Task.model_validate(content)
    except ValidationError as error:
        fault = describe_first_fault(error)
        raise TaskError(f"{source}: {fault}{'' if fault.endswith(('.', '?')) else '.'}") from error  # noqa: EM102


def read_task_file(path: Path) -> Task:
    """Read a recipe from a YAML file; tags that would build Python objects are refused.

    Raises:
        TaskError: If the file is missing, is no YAML, or is no valid recipe.
    """
    try:
        return parse_task(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise TaskError(f"{path} cannot be read: {error.strerror}. Check the path.") from error  # noqa: EM102
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where else ""
        msg = f"{path} is no plain YAML{line}: {getattr(error, 'problem', None) or 'not text'}. Correct it."
        raise TaskError(msg) from error


def describe_first_fault(error: ValidationError) -> str:
    """pydantic's first complaint as a phrase: where and what."""
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def fold_name(name: str) -> str:
    """A name without what people vary when they write it: case, width, spaces and ``_-.``.

    Example:
        >>> fold_name("Femur_Head-L") == fold_name("femur head L")
        True
    """
    return re.sub(r"[\s_.-]", "", unicodedata.normalize("NFKC", name).casefold())
