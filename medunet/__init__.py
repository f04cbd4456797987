"""medunet: 3D segmentation of CT and MR volumes, from one line of shell or Python.

```python
import medunet

result = medunet.train("prostate-ct", budget="5min")        # medunet train --task prostate-ct --budget 5min
mask = medunet.load(result.folder).segment("scan.nii.gz")    # medunet infer scan.nii.gz -o mask.nii.gz
mask.save("mask.nii.gz")
scores = medunet.evaluate("masks/", "labels/")               # medunet evaluate masks/ labels/
```

Importing medunet loads neither torch nor MONAI; the names below are loaded when they are first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medunet.errors import MedunetError
    from medunet.evaluation import evaluate
    from medunet.exporting import export
    from medunet.inference import Segmentation, Segmenter, load
    from medunet.io import read_volume
    from medunet.postprocessing import postprocess
    from medunet.runs import compare_runs, list_runs
    from medunet.tasks import list_tasks, load_task
    from medunet.training import train
    from medunet.volume import Volume

__version__ = "0.1.0"

_HOMES = {
    "MedunetError": "errors",
    "Segmentation": "inference",
    "Segmenter": "inference",
    "Volume": "volume",
    "compare_runs": "runs",
    "evaluate": "evaluation",
    "export": "exporting",
    "list_runs": "runs",
    "list_tasks": "tasks",
    "load": "inference",
    "load_task": "tasks",
    "postprocess": "postprocessing",
    "read_volume": "io",
    "train": "training",
}

__all__ = [
    "MedunetError",
    "Segmentation",
    "Segmenter",
    "Volume",
    "compare_runs",
    "evaluate",
    "export",
    "list_runs",
    "list_tasks",
    "load",
    "load_task",
    "postprocess",
    "read_volume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
