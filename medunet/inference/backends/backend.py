"""What every backend can do, and the names by which one is asked for."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from torch import Tensor

BackendName = Literal["auto", "torch", "openvino", "onnxruntime"]
BACKEND_NAMES: tuple[BackendName, ...] = get_args(BackendName)


class Backend(Protocol):
    """Computes a network on patches; may be called from several threads at once.

    Attributes:
        name: ``"torch"``, ``"openvino"`` or ``"onnxruntime"``.
        description: One line for people: what computes, on what, in which precision, and why it was taken.
    """

    name: str
    description: str

    def __call__(self, patches: Tensor) -> Tensor:
        """Logits of patches.

        Args:
            patches: ``(B, C, *patch_size)`` float32 on the backend's device, larger where networks see what surrounds a patch;
                ``B`` may differ from call to call.

        Returns:
            ``(B, out_channels, *patch_size)`` float32 on the same device.
        """


def describe_cpu(num_threads: int) -> str:
    """For descriptions.

    Example:
        >>> describe_cpu(1), describe_cpu(2)
        ('1 thread of the CPU', '2 threads of the CPU')
    """
    return f"{num_threads} thread{'' if num_threads == 1 else 's'} of the CPU"
