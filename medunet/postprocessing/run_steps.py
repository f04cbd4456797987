"""`postprocess`: steps by name, on any mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from medunet.errors import InputError, LabelError
from medunet.io import (
    Algorithm,
    ReadOptions,
    Scan,
    SegKind,
    StructureSet,
    check_output,
    choose_mask_format,
    from_label_map,
    has_structure_names,
    is_dicom_source,
    list_outputs,
    read_label_map,
    read_scan,
    read_structures,
    write_structures,
)
from medunet.models.postprocessing import LabelStep
from medunet.postprocessing.apply_steps import StepEffect, apply_steps
from medunet.postprocessing.image_steps import IMAGE_STEPS, ImageEffect, ImageStep, apply_image_step
from medunet.postprocessing.label_rules import LabelRule, build_plain_rules, build_task_rules
from medunet.tasks import (
    MASK_STEPS,
    MaskStep,
    Task,
    build_step,
    check_label_values,
    load_task,
    split_step,
    structures_to_labels,
    suggest,
)
from medunet.volume import Volume, align_to_grid

Step: TypeAlias = MaskStep | ImageStep
Steps: TypeAlias = Sequence[Any] | Mapping[str, Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Postprocessed:
    """A mask after its steps.

    Attributes:
        structures: The mask and the names of its labels.
        effects: What each step did to each label, in order.
        scan: The image or DICOM series of the mask, for formats that need one.
        options: How it was read.
    """

    structures: StructureSet
    effects: tuple[StepEffect | ImageEffect, ...]
    scan: Scan | None = None
    options: ReadOptions | None = None

    @property
    def labels(self) -> Volume:
        """``(1, I, J, K)``."""
        return self.structures.to_label_map()

    def save(
        self,
        path: str | Path,
        *,
        mask_format: str | None = None,
        seg_kind: SegKind = "binary",
        overwrite: bool = False,
    ) -> list[Path]:
        """Write the mask in any of the formats of `medunet.Segmentation.save`.

        Returns:
            The files written.

        Raises:
            OutputError: If a file exists and may not be replaced, or cannot be written.
            InputError: If a DICOM object is asked for, and the image is no DICOM series.
        """
        import medunet

        path = Path(path)
        chosen = choose_mask_format(path, mask_format)
        for output in list_outputs(path, chosen, [], split=False):
            check_output(output, [], overwrite=overwrite)
        algorithm = Algorithm(name="medunet postprocess", version=medunet.__version__, is_automatic=False)
        return write_structures(
            self.structures,
            path,
            mask_format=chosen,
            scan=self.scan,
            options=self.options,
            seg_kind=seg_kind,
            algorithm=algorithm,
        )


def postprocess(
    mask: str | Path | Volume | StructureSet,
    steps: Steps | None = None,
    *,
    labels: Sequence[str] | None = None,
    task: str | Path | Task | None = None,
    image: Any = None,
    probabilities: str | Path | Volume | None = None,
    reference: Scan | None = None,
    device: str = "auto",
    options: ReadOptions | None = None,
) -> Postprocessed:
    """Take steps of post-processing on a mask.

    Args:
        mask: A mask file, or a label map in memory.
        steps: In order, each as ``"remove-small:ml=0.5"``, ``{"remove-small": {"ml": 0.5}}`` or a step of
            `medunet.tasks`: for all labels, or a list per label. ``"crf"`` and ``"slic"`` look at the image and are for all
            labels at once. None takes those of the task.
        labels: Which labels the steps are for; None is all. Labels without a name are called ``"label 4"``.
        task: Names the labels; needed where they are regions within each other or have sides.
        image: The scan, for ``crf`` and ``slic``: a path, a list with a path per channel, or a `Volume`.
        probabilities: Of background and every label, for ``crf`` and ``slic`` as the first step.
        reference: The DICOM series that the mask belongs to.
        device: That computes the CRF.
        options: For files that leave something open.

    Returns:
        The mask with the same names, and what was done.

    Raises:
        InputError: If there is no such step, option or label, or the image is missing or lies on another grid.
        LabelError: If the labels overlap and no task says how.

    Example:
        >>> hole = np.ones((1, 3, 3, 3), np.uint8)
        >>> hole[0, 1, 1, 1] = 0
        >>> done = postprocess(make_volume(shape=(3, 3, 3)).with_array(hole), ["fill-holes"])
        >>> int(done.labels.array.sum()), done.effects[0].describe()
        (27, 'label 1: fill-holes, 0 voxels removed, 1 added')
    """
    known = load_task(task) if isinstance(task, (str, Path)) else task
    structures = _read_mask(mask, known, reference, options)
    label_map = structures.to_label_map()
    rules = _build_rules(structures, known)
    plan = _list_steps(steps, labels, known, rules)
    picture, chances = _read_images(plan, label_map, image, probabilities, options)
    effects: list[StepEffect | ImageEffect] = []
    for place, (step, names) in enumerate(plan):
        if isinstance(step, MaskStep):
            of_labels = [LabelStep(label=name, step=step) for name in names]
            label_map, done = apply_steps(label_map, rules, of_labels, () if known is None else known.laterality)
            effects += done
        else:
            assert picture is not None
            label_map, effect = apply_image_step(
                label_map, rules, step, picture, chances if place == 0 else None, device=device
            )
            effects.append(effect)
    scan = reference
    if scan is None and isinstance(mask, (str, Path)) and not is_dicom_source(Path(mask)):
        scan = Scan(volume=label_map, path=Path(mask))
    return Postprocessed(
        structures=StructureSet(layers=label_map, structures=structures.structures),
        effects=tuple(effects),
        scan=scan,
        options=options,
    )


def parse_any_step(content: Any) -> Step:
    """A step of a label, or one that looks at the image.

    Raises:
        InputError: If there is none, with the nearest.
    """
    if isinstance(content, (MaskStep, *IMAGE_STEPS.values())):
        return content  # type: ignore[return-value]
    try:
        step: Step = build_step(*split_step(content), {**MASK_STEPS, **IMAGE_STEPS})
    except ValueError as error:
        text = str(error)
        raise InputError(f"Post-processing: {text}{'' if text.endswith(('.', '?')) else '.'}") from error  # noqa: EM102
    return step


def _list_steps(
    steps: Steps | None, labels: Sequence[str] | None, task: Task | None, rules: Mapping[str, LabelRule]
) -> list[tuple[Step, list[str]]]:
    """Each step with its labels."""
    if steps is None:
        steps = {} if task is None else task.postprocessing
        if not steps:
            msg = "There is nothing to do; name steps, such as fill-holes, or a task whose recipe has some."
            raise InputError(msg)
    names = list(rules) if labels is None else list(labels)
    per_label = steps.items() if isinstance(steps, Mapping) else [(None, steps)]
    plan: list[tuple[Step, list[str]]] = []
    for label, contents in per_label:
        for content in contents:
            plan.append((parse_any_step(content), names if label is None else [label]))
    for name in (name for _, of_step in plan for name in of_step):
        if name not in rules:
            msg = f"The mask has no label '{name}'; {suggest(name, rules) if rules else 'it is empty.'}"
            raise InputError(msg)
    paired = {name for pair in (task.laterality if task else ()) for name in pair}
    for step, of_step in plan:
        if isinstance(step, MaskStep) and step.name == "one-per-side":
            of_step[:] = [name for name in of_step if name in paired] or of_step
            if not set(of_step) <= paired or (task is not None and task.has_regions):
                msg = f"{step.name} needs a task with pairs of plain labels under laterality; name it, and labels of its pairs."
                raise InputError(msg)
    return plan


def _build_rules(structures: StructureSet, task: Task | None) -> dict[str, LabelRule]:
    if task is not None:
        return build_task_rules(task)
    values = [value for structure in structures.structures for value in structure.values]
    if len(set(values)) < len(values):
        msg = "Labels of the mask lie within each other; name the task that says how."
        raise LabelError(msg)
    return build_plain_rules({structure.name: structure.values for structure in structures.structures})


def _read_mask(
    mask: str | Path | Volume | StructureSet, task: Task | None, reference: Scan | None, options: ReadOptions | None
) -> StructureSet:
    if isinstance(mask, StructureSet):
        return mask
    if isinstance(mask, Volume):
        found = mask
        if task is None:
            import numpy as np

            values = [int(value) for value in np.unique(mask.array) if value]
            return from_label_map(mask, {f"label {value}": (value,) for value in values})
        check_label_values(found, task, "The mask")
    else:
        path = Path(mask)
        has_names = is_dicom_source(path) or has_structure_names(path)
        if task is None:
            return read_structures(path, reference, options)
        if has_names:
            found = structures_to_labels(read_structures(path, reference, options), task, name=str(path))
        else:
            found = read_label_map(path, options)
            check_label_values(found, task, str(path))
    return from_label_map(found, task.labels, codes=task.codes)


def _read_images(
    plan: Sequence[tuple[Step, list[str]]],
    label_map: Volume,
    image: Any,
    probabilities: str | Path | Volume | None,
    options: ReadOptions | None,
) -> tuple[Volume | None, Volume | None]:
    """Image and probabilities on the grid of the mask; None where no step looks at them."""
    looking = [step for step, _ in plan if not isinstance(step, MaskStep)]
    if probabilities is not None and (not looking or isinstance(plan[0][0], MaskStep)):
        names = " or ".join(IMAGE_STEPS)
        msg = (
            f"Probabilities are of use to {names} as the first step only; expected one of these first. Leave them out."
        )
        raise InputError(msg)
    if not looking:
        return None, None
    if image is None:
        msg = f"{looking[0].name} looks at the image; expected the scan that the mask was made of. Name it."
        raise InputError(msg)
    picture = _read_on_grid(image, "The image", label_map, options)
    if probabilities is None:
        return picture, None
    return picture, _read_on_grid(probabilities, "The map of probabilities", label_map, options)


def _read_on_grid(source: Any, name: str, grid: Volume, options: ReadOptions | None) -> Volume:
    volume = source if isinstance(source, Volume) else read_scan(source, options).volume
    return align_to_grid(volume, grid, name, "the mask")
