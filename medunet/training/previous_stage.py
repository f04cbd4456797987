"""The first stage of a cascade, trained: what it finds in the cases from which the second one learns.

Its masks are brought onto the grid of the preprocessed case and kept there, one file per case, which appears whole or not
at all. The key of a file is made of the case's content and of the weights that segmented it, so that a training which is
resumed finds what was made for it and nothing else:

```text
state/previous/<case>-<key>.safetensors
```
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medunet.inference import Predictor, append_previous_labels
from medunet.inference.settings import REPRODUCIBLE
from medunet.io import write_bytes_atomic
from medunet.models import read_model, read_records
from medunet.preprocessing import StoredCase, preprocess_labels
from medunet.preprocessing.case_file import CaseFile, DamagedCaseError, open_case_file
from medunet.preprocessing.prepare import name_case_file
from medunet.preprocessing.store import serialize_previous_labels
from medunet.tasks import Case, encode_labels, read_case
from medunet.training.experiment import Experiment, count_cases
from medunet.training.mask_pairs import has_mask_pair, read_mask_pair
from medunet.volume import Volume, build_grid

logger = logging.getLogger(__name__)


class PreviousStage:
    """The networks of the first stage.

    Args:
        experiment: Of the second stage.
        folder: Of the first stage: a model folder whose members are networks that learnt from parts of the cases.
        store: Where files of labels go.
        unseen: Id of each case from which the second stage learns -> name of the member that has not seen it. Other
            cases, which no member has seen, are segmented by all together, as any scan will be.
        masks: Where the members left masks of cases that they had not seen (`medunet.training.validation`), so that
            these need not be segmented again.
    """

    def __init__(
        self, experiment: Experiment, folder: Path, *, store: Path, unseen: Mapping[str, str], masks: Path
    ) -> None:
        self._experiment = experiment
        self._folder = folder
        self._store = store
        self._unseen = unseen
        self._masks = masks
        self._predictors: dict[Path, Predictor] = {}

    def add_labels(self, cases: Sequence[Case], stored: Sequence[StoredCase]) -> list[StoredCase]:
        """Preprocessed cases with what this stage finds in them; the first process makes what is not there yet.

        Args:
            cases: To segment.
            stored: The same, preprocessed for the second stage.

        Raises:
            InputError: If a case cannot be read.
            OutputError: If a file cannot be written.
        """
        count = count_cases("segmenting at low resolution", len(cases), self._experiment.observer)
        added = []
        with self._experiment.world.in_turn():
            for case, preprocessed in zip(cases, stored, strict=True):
                added.append(self._add(case, preprocessed))
                count(case.case_id)
        self._predictors.clear()  # their memory is needed for training
        return added

    def add_channels(self, prepared: Volume, scan: Volume) -> Volume:
        """A preprocessed scan with the labels that all networks of this stage find together, as channels."""
        label_map = self._load(self._folder).segment(scan)
        return append_previous_labels(prepared, label_map, self._experiment.task)

    def _add(self, case: Case, stored: StoredCase) -> StoredCase:
        member = self._find_member(case)
        content = f"{stored.checksum} {read_records(member).training.weights_sha256}"
        key = hashlib.sha256(content.encode()).hexdigest()[:16]
        path = self._store / name_case_file(case.case_id, key)
        try:
            return stored.add_previous(open_case_file(path))
        except FileNotFoundError:
            pass
        except DamagedCaseError as error:
            logger.warning("%s The case is segmented again.", error)
        return stored.add_previous(self._make(case, stored, path))

    def _make(self, case: Case, stored: StoredCase, path: Path) -> CaseFile:
        labels = encode_labels(self._segment(case), self._experiment.task)
        codes = preprocess_labels(labels, build_grid(stored.shape, stored.affine)).array[0]
        write_bytes_atomic(path, serialize_previous_labels(np.ascontiguousarray(codes)))
        return open_case_file(path)

    def _segment(self, case: Case) -> Volume:
        """The mask on the case's own grid, without post-processing, as the second stage gets it of any scan."""
        if case.case_id in self._unseen and has_mask_pair(self._masks, case.case_id):
            return read_mask_pair(self._masks, case.case_id).prediction
        scan, _ = read_case(case, self._experiment.task)
        return self._load(self._find_member(case)).segment(scan)

    def _find_member(self, case: Case) -> Path:
        return self._folder / self._unseen[case.case_id] if case.case_id in self._unseen else self._folder

    def _load(self, folder: Path) -> Predictor:
        if folder not in self._predictors:
            self._predictors[folder] = Predictor(
                read_model(folder), self._experiment.device, self._experiment.precision, REPRODUCIBLE
            )
        return self._predictors[folder]
