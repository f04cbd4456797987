"""The network in eight bits, for ``--speed fast`` on the CPU: made from patches of training cases, measured on validation cases.

It is kept only where it is faster and the Dice falls by less than `medunet.models.int8.MAX_INT8_LOSS`; what was measured is written
down in any case.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medunet.device import choose_precision, is_out_of_memory
from medunet.errors import InputError
from medunet.inference import InferenceSettings, Predictor
from medunet.inference.backends import FOLDER, build_example_tile, check_packages, is_installed, quantize_networks
from medunet.inference.logits import compute_around
from medunet.inference.settings import FAST_STEP
from medunet.inference.surroundings import find_plan_margins
from medunet.io import write_bytes_atomic, write_json_atomic
from medunet.models import Int8Record, MeasuredSpeed, Model, is_ensemble, list_members
from medunet.models.folder import read_single_model
from medunet.models.names import INT8
from medunet.preprocessing import StoredCase, preprocess_labels
from medunet.preprocessing.foreground import ForegroundIndex, index_foreground
from medunet.tasks import Case, encode_labels, parse_mapping, read_case, read_dataset
from medunet.training.patches import choose_start, crop_patch
from medunet.training.progress import Observer
from medunet.training.speed import SHARE, choose_cases, measure_case, summarize_speed

logger = logging.getLogger(__name__)

NUM_PATCHES = 32
"""To calibrate on: more hardly change the ranges."""
_MIN_PATCHES = 4
_PATCHES_PER_CASE = 4
_MIN_SECONDS = 60.0
"""In less, no network is quantised and measured."""
_NUM_PASSES = 3.0
"""Passes that calibration with one patch takes the time of: layers run one by one, and their ranges are looked at."""
_SEED = 0
_CPU = torch.device("cpu")
_FLOATING = {"bf16-mixed": InferenceSettings(speed="fast", precision="bf16")}
"""Settings by precision: a precision that is asked for leaves eight bits out."""
_FLOATING_32 = InferenceSettings(speed="fast", precision="fp32")
_INT8 = InferenceSettings(speed="fast")


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What came of an attempt.

    Attributes:
        record: What was measured; None where it did not come to that.
        message: One line for people.
    """

    record: Int8Record | None
    message: str


def quantize(
    model: str | Path,
    data: str | Path,
    *,
    mapping: Sequence[str] = (),
    num_patches: int = NUM_PATCHES,
    observer: Observer | None = None,
) -> Quantized:
    """Quantise a trained model, measure it on its validation cases, and keep the result where it pays.

    Args:
        model: A model folder; of an ensemble the first network, which ``--speed fast`` takes.
        data: The dataset that it was trained with (`medunet.tasks.read_dataset`).
        mapping: ``name=label`` for structures of SEG and RTSTRUCT, as for training.
        num_patches: To calibrate on.
        observer: Told of every case.

    Raises:
        InputError: If a package is missing, or the dataset does not hold the cases of the model.
        ModelError: If there is no such model, or it is damaged.
        OutputError: If the model folder cannot be written.
    """
    check_packages("int8", ("openvino", "nncf"), "int8")
    folder = Path(model)
    if is_ensemble(folder):
        folder = list_members(folder)[0]
    network = read_single_model(folder)
    cases = {case.case_id: case for case in read_dataset(data, mapping=parse_mapping(mapping)).cases}
    training, validation = (
        [cases[case_id] for case_id in case_ids if case_id in cases]
        for case_ids in (network.training.training_cases, network.training.validation_cases)
    )
    if not training or not validation:
        msg = (
            f"{data} holds {len(training)} training and {len(validation)} validation cases of {folder}; expected one of each at "
            "least: eight bits are calibrated on the former and measured on the latter. Name the dataset of the training; a model "
            "that was trained with --fold all has no validation cases."
        )
        raise InputError(msg)
    return quantize_model(network, training, validation, observer or Observer(), num_patches=num_patches)


def quantize_after_training(
    folder: Path,
    training_cases: Sequence[Case],
    validation_cases: Sequence[Case],
    training_seconds: float,
    observer: Observer,
) -> None:
    """Quantise the network that has just been trained, if that can be done in a twentieth of the training's time.

    What keeps it from being done is said, and is no error.

    Args:
        folder: The model folder, complete; gets the result.
        training_cases: To calibrate on.
        validation_cases: To measure on.
        training_seconds: That training took.
        observer: Told what came of it.
    """
    limit = SHARE * training_seconds
    if limit < _MIN_SECONDS:
        logger.info("No network in eight bits: training was short; medunet quantize makes one")
    elif not (is_installed("openvino") and is_installed("nncf")):
        observer.on_message("No network in eight bits for --speed fast on the CPU: pip install 'medunet[int8]'")
    else:
        try:
            done = quantize_model(
                read_single_model(folder), training_cases, validation_cases, observer, limit_seconds=limit
            )
            observer.on_message(done.message)
        except Exception as error:  # the model is finished and good without it
            logger.warning("No network in eight bits: %s", str(error) or type(error).__name__)


def quantize_model(
    model: Model,
    training_cases: Sequence[Case],
    validation_cases: Sequence[Case],
    observer: Observer,
    *,
    num_patches: int = NUM_PATCHES,
    limit_seconds: float | None = None,
) -> Quantized:
    """Quantise one network, segment validation cases with and without, and keep the result where it pays.

    Args:
        model: Read from its folder, which gets ``int8.json`` and the converted network.
        training_cases: To calibrate on.
        validation_cases: To measure on, at most 20, the same as `medunet.training.speed` takes.
        observer: Told of every case.
        num_patches: To calibrate on, at most.
        limit_seconds: That all may take; where it is not enough, nothing is made. One case is measured in any case.

    Raises:
        InputError: If no training case can be read.
        OutputError: If the model folder cannot be written.
    """
    if find_plan_margins(model.plan) is not None:
        message = "No network in eight bits: one without padding sees more of a scan than patches of training show."
        return Quantized(record=None, message=message)
    began = time.monotonic()
    precision = choose_precision(_CPU)
    usual = Predictor(replace(model, int8=None), _CPU, precision, _FLOATING.get(precision, _FLOATING_32))
    if limit_seconds is not None:
        num_patches = min(num_patches, int(limit_seconds / 4 / (_NUM_PASSES * _time_pass(usual, model))))
        too_slow = model.speed is not None and 2 * model.speed.fast.seconds > limit_seconds / 2
        if num_patches < _MIN_PATCHES or too_slow:
            message = (
                f"No network in eight bits: making and measuring it would take more than {limit_seconds:.0f} s, a twentieth of "
                f"the training; medunet quantize {model.folder} takes the time."
            )
            return Quantized(record=None, message=message)
    patches = draw_patches(model, usual, training_cases, num_patches)
    with tempfile.TemporaryDirectory(prefix="medunet-int8-") as name:
        temporary = Path(name)
        try:
            file = quantize_networks([model.network], model.plan, patches, temporary / FOLDER)
        except (RuntimeError, ValueError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            return Quantized(record=None, message=f"No network in eight bits: it cannot be quantised ({reason[:200]}).")
        candidate = _pretend_good(model, len(patches))
        eight = Predictor(replace(model, folder=temporary, int8=candidate), _CPU, precision, _INT8)
        deadline = None if limit_seconds is None else began + limit_seconds
        record = _measure(model, usual, eight, validation_cases, candidate, observer, deadline)
        if record is None:
            return Quantized(record=None, message="No network in eight bits: no validation case could be scored.")
        kept = model.folder / FOLDER / file.name
        if record.is_used:
            write_bytes_atomic(kept, file.read_bytes())
        else:
            kept.unlink(missing_ok=True)
    write_json_atomic(model.folder / INT8, record.model_dump(mode="json"))
    return Quantized(record=record, message=_describe(record))


def draw_patches(model: Model, predictor: Predictor, cases: Sequence[Case], num_patches: int) -> Tensor:
    """What the network sees of training cases, ``(N, C, *patch_size)``: labels in turns, and any place, from case after case.

    Args:
        model: Whose plan and task count.
        predictor: Of that model: preprocesses, and of a cascade makes the first stage's labels.
        cases: A case that cannot be read is passed over.
        num_patches: At least one.

    Raises:
        InputError: If no case can be read.
    """
    rng = np.random.default_rng(_SEED)
    num_cases = -(-num_patches // _PATCHES_PER_CASE)
    chosen = [cases[number] for number in rng.permutation(len(cases))[:num_cases]]
    patches: list[Tensor] = []
    error: Exception | None = None
    for number, case in enumerate(chosen):
        try:
            stored = _prepare(model, predictor, case)
        except InputError as fault:
            error = fault
            continue
        codes = sorted(stored.foreground)
        for turn in range(-(-num_patches // len(chosen))):
            code = codes[(number + turn // 2) % len(codes)] if codes and turn % 2 == 0 else None
            start = choose_start(stored, model.plan.patch_size, code, rng)
            patches.append(crop_patch(stored, start, model.plan.patch_size)[0])
    if not patches:
        msg = f"No training case can be read to calibrate on: {error}"
        raise InputError(msg) from error
    return torch.stack(patches[:num_patches])


def _prepare(model: Model, predictor: Predictor, case: Case) -> StoredCase:
    """A case in memory as the network sees it, previous labels among its channels."""
    image, reference = read_case(case, model.task)
    seen = predictor.prepare(image)
    codes = preprocess_labels(encode_labels(reference, model.task), seen).array[0]
    counts, positions = index_foreground(codes, case.case_id)
    return StoredCase(
        case_id=case.case_id,
        path=case.labels,
        shape=seen.spatial_shape,
        fill=compute_around(seen.array, model.plan),
        foreground=ForegroundIndex(counts, lambda start, stop: torch.from_numpy(positions[start:stop])),
        image=torch.from_numpy(seen.array),
        labels=torch.from_numpy(codes),
    )


def _measure(
    model: Model,
    usual: Predictor,
    eight: Predictor,
    cases: Sequence[Case],
    candidate: Int8Record,
    observer: Observer,
    deadline: float | None,
) -> Int8Record | None:
    """Both ways in turns, so that whatever else runs on the machine slows both; None where nothing can be scored."""
    for predictor in (usual, eight):
        _time_pass(predictor, model)  # the first one is slower
    floating, int8 = [], []
    chosen = choose_cases(cases)
    for number, case in enumerate(chosen, start=1):
        try:
            rows = [measure_case(predictor.segment, case, model.task) for predictor in (usual, eight)]
        except Exception as error:
            if not (isinstance(error, InputError) or is_out_of_memory(error)):
                raise
            continue
        if rows[0] is not None and rows[1] is not None:
            floating.append(rows[0])
            int8.append(rows[1])
        observer.on_case("measuring eight bits", case.case_id, number, len(chosen))
        if floating and deadline is not None and time.monotonic() > deadline:
            break
    if not floating:
        return None
    return candidate.model_copy(
        update={
            "num_cases": len(floating),
            "computed_by": eight.description,
            "int8": summarize_speed(int8, FAST_STEP, 1),
            "floating": summarize_speed(floating, FAST_STEP, 1),
        }
    )


def _time_pass(predictor: Predictor, model: Model) -> float:
    """Seconds that one patch takes, the second time."""
    patch = build_example_tile(model.plan)
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        predictor.compute_patches(patch)
        seconds = time.perf_counter() - began
    return seconds


def _pretend_good(model: Model, num_patches: int) -> Int8Record:
    """A record with which a `Predictor` takes what has not been measured yet."""
    nothing = MeasuredSpeed(step_fraction=FAST_STEP, num_flips=1, dice=1.0, seconds=0.0)
    return Int8Record(
        weights_sha256=model.training.weights_sha256,
        num_patches=num_patches,
        num_cases=0,
        computed_by="",
        int8=nothing,
        floating=nothing.model_copy(update={"seconds": 1.0}),
    )


def _describe(record: Int8Record) -> str:
    verdict = "--speed fast uses them on the CPU" if record.is_used else "not kept"
    return f"Eight bits: {record.describe()}; {verdict}."
