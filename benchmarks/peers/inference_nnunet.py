"""nnU-Net's predictor with its model in memory, in one process; imported only where nnunetv2 is."""

from __future__ import annotations

from pathlib import Path

import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from peers.environment import silence
from peers.warm_inference import InferenceTool, StageClock, count_patches


class _Nnunet:
    """Its steps of `predict_from_files_sequential`, timed one by one; the export interpolates, decides and writes."""

    def __init__(self, model: Path, device: str) -> None:
        with silence():
            self._predictor = nnUNetPredictor(use_mirroring=False, device=torch.device(device), allow_tqdm=False)
            self._predictor.initialize_from_trained_model_folder(str(model), use_folds=(0,))
        managers = self._predictor.plans_manager, self._predictor.configuration_manager
        self._plans, self._configuration = managers
        self._preprocessor = self._configuration.preprocessor_class(verbose=False)
        self.network = self._predictor.network.to(device).eval()
        self.patch_size = tuple(self._configuration.patch_size)
        self.device = device
        self.about = {"precision": "32-true" if device == "cpu" else "16-mixed"}
        self._count = count_patches(self.network)

    def segment(self, scan: Path, mask: Path) -> tuple[dict[str, float], int]:
        self._count()  # forget what was timed without a scan
        clock = StageClock()
        description = self._predictor.dataset_json
        with silence():
            reader = self._plans.image_reader_writer_class()
            image, properties = reader.read_images([str(scan)])
            clock.stop("read")
            data, _, properties = self._preprocessor.run_case_npy(
                image, None, properties, self._plans, self._configuration, description
            )
            del image
            clock.stop("prepare")
            logits = self._predictor.predict_logits_from_preprocessed_data(torch.as_tensor(data)).cpu()
            clock.stop("network")
            export_prediction_from_logits(
                logits,
                properties,
                self._configuration,
                self._plans,
                description,
                str(mask).removesuffix(".nii.gz"),
                num_threads_torch=torch.get_num_threads(),
            )
            clock.stop("restore+write")
        return clock.seconds, self._count()


def open_nnunet_predictor(model: Path, device: str) -> InferenceTool:
    """Load a trained model folder of nnU-Net, without mirroring."""
    return _Nnunet(model, device)
