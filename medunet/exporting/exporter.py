"""`export`: a model as one network that other programs run, with a description of everything around it."""

from __future__ import annotations

import copy
import io
import json
import logging
import secrets
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from medunet.errors import InputError, ModelError, OutputError
from medunet.exporting.description import describe_model
from medunet.exporting.monai_bundle import MODEL, build_bundle_files, check_fits_bundle
from medunet.exporting.parity import Parity, check_parity
from medunet.inference import Segmenter
from medunet.inference.backends import (
    OnnxBackend,
    OpenVinoBackend,
    build_example_patch,
    check_packages,
    combine_networks,
    convert_to_onnx,
    convert_to_openvino,
    trace_network,
)
from medunet.inference.prediction import build_patch_key
from medunet.inference.surroundings import find_plan_margins
from medunet.io import check_output, write_bytes_atomic
from medunet.io.atomic import describe_write_error
from medunet.models import AnyModel, Model, read_model

logger = logging.getLogger(__name__)

ExportFormat = Literal["onnx", "openvino", "torchscript", "monai-bundle"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
_SUFFIXES: dict[str, tuple[str, ...]] = {"onnx": (".onnx",), "openvino": (".xml",), "torchscript": (".ts", ".pt")}


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written.

    Attributes:
        path: As asked for.
        files: All of it.
        parity: How the exported network compares with the original.
    """

    path: Path
    files: tuple[Path, ...]
    parity: Parity


def export(
    model: AnyModel | Segmenter | str | Path, export_format: str, output: str | Path, *, overwrite: bool = False
) -> Export:
    """Write a model for other programs.

    The exported network takes patches and gives logits, like the original; ``<name>.json`` beside it says what belongs
    around it. A MONAI bundle is complete: it takes a NIfTI file and writes a mask. A network without padding warns that it
    is not given what lies around a patch. Everything appears whole, and only after
    the exported network gave the answers of the original on random patches.

    Args:
        model: A model folder, what `load` made of it, or a model in memory. An ensemble whose networks see the same patches
            becomes one network, which gives the mean of their logits.
        export_format: ``"onnx"``, ``"openvino"``, ``"torchscript"`` or ``"monai-bundle"``.
        output: A file ``.onnx``, ``.xml`` (with ``.bin`` beside it), ``.ts`` or ``.pt``; for a bundle a folder that is not
            there yet.
        overwrite: Whether files may be replaced; a folder never is.

    Raises:
        InputError: If the format is unknown, does not fit the name, or needs a package that is not installed.
        ModelError: If the model cannot be read, is a cascade or an ensemble of several plans, or the exported network
            answers differently.
        OutputError: If the output exists or cannot be written.
    """
    output = Path(output)
    _check_format(export_format, output)
    model = _get_model(model)
    _check_is_one_network(model)
    if find_plan_margins(model.plan) is not None:
        logger.warning(
            "The exported network sees patches alone and mirrors each at its own borders; in medunet it sees what lies around a tile, "
            "so masks may differ there."
        )
    if export_format == "monai-bundle":
        check_fits_bundle(model)
        return _export_bundle(model, output)
    names = [
        output,
        output.with_suffix(".json"),
        *([output.with_suffix(".bin")] if export_format == "openvino" else []),
    ]
    for path in names:
        check_output(path, overwrite=overwrite)
    converted, parity = _convert(model, export_format)
    contents = {output.with_suffix(".json"): _to_json(describe_model(model, export_format, parity))}
    contents |= {output.with_suffix(suffix): content for suffix, content in converted.beside.items()}
    contents[output] = converted.content  # last: once it is there, everything is
    for path, content in contents.items():
        write_bytes_atomic(path, content)
    return Export(path=output, files=tuple(contents), parity=parity)


def _check_format(export_format: str, output: Path) -> None:
    if export_format not in EXPORT_FORMATS:
        msg = f"There is no format '{export_format}'; expected one of {', '.join(EXPORT_FORMATS)}."
        raise InputError(msg)
    suffixes = _SUFFIXES.get(export_format, ())
    if suffixes and output.suffix not in suffixes:
        msg = (
            f"The output {output} is no name for {export_format}; expected one that ends with {' or '.join(suffixes)}."
        )
        raise InputError(msg)


def _get_model(model: AnyModel | Segmenter | str | Path) -> AnyModel:
    if isinstance(model, Segmenter):
        return model.model
    return read_model(model) if isinstance(model, (str, Path)) else model


def _check_is_one_network(model: AnyModel) -> None:
    """Refuse what one call from patches to logits cannot express."""
    if any(isinstance(member, Model) and member.low is not None for member in model.members):
        msg = (
            f"{model.folder} is a cascade: its network also needs the mask of another one. It cannot be exported as one "
            "network; export a model of the configuration 3d or 2d."
        )
        raise ModelError(msg)
    if len({build_patch_key(member.plan) for member in model.members}) > 1:
        names = ", ".join(str(member.folder) for member in model.members)
        msg = f"{model.folder} is an ensemble of networks that see different patches; export them one by one: {names}."
        raise ModelError(msg)


@dataclass(frozen=True, kw_only=True)
class _Converted:
    """A network in another format.

    Attributes:
        content: The file that programs open.
        beside: Other files, by suffix.
        compute: The same as a function from patches to logits.
    """

    content: bytes
    beside: Mapping[str, bytes]
    compute: Callable[[Tensor], Tensor]


def _convert(model: AnyModel, export_format: str) -> tuple[_Converted, Parity]:
    """An exported network, and how it compares."""
    # Copies: the networks of a `Segmenter` may be at work on a GPU.
    network = combine_networks([copy.deepcopy(member.network).to("cpu").eval() for member in model.members])
    converted = _CONVERTERS[export_format](network, build_example_patch(model.plan))
    parity = check_parity(
        network, converted.compute, model.plan, has_regions=model.task.has_regions, what=export_format
    )
    return converted, parity


def _convert_onnx(network: nn.Module, patch: Tensor) -> _Converted:
    check_packages("The comparison of an ONNX file", ("onnxruntime",), "onnx")
    content = convert_to_onnx(network, patch)
    compute = OnnxBackend({"onnx": content}, num_threads=torch.get_num_threads())
    return _Converted(content=content, beside={}, compute=compute)


def _convert_openvino(network: nn.Module, patch: Tensor) -> _Converted:
    parts = convert_to_openvino(network, patch)
    compute = OpenVinoBackend(parts, "32-true", num_threads=torch.get_num_threads())
    return _Converted(content=parts["xml"], beside={".bin": parts["bin"]}, compute=compute)


def _convert_torchscript(network: nn.Module, patch: Tensor) -> _Converted:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that TorchScript grows old
        torch.jit.save(trace_network(network, patch), buffer)
        buffer.seek(0)
        again = torch.jit.load(buffer, map_location="cpu")  # type: ignore[no-untyped-call]

    def compute(patches: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = again(patches)
        return logits

    return _Converted(content=buffer.getvalue(), beside={}, compute=compute)


_CONVERTERS: Mapping[str, Callable[[nn.Module, Tensor], _Converted]] = {
    "onnx": _convert_onnx,
    "openvino": _convert_openvino,
    "torchscript": _convert_torchscript,
    "monai-bundle": _convert_torchscript,
}


def _export_bundle(model: AnyModel, output: Path) -> Export:
    if model.plan.num_neighbour_slices:
        msg = (
            f"{model.folder} sees neighbour slices as channels (2.5D), which MONAI's sliding window does not give it; choose "
            "onnx, openvino or torchscript, or export a model of the configuration 2d or 3d."
        )
        raise ModelError(msg)
    if output.exists():
        msg = f"The output {output} exists already; it was left as it is. Name a folder that is not there yet."
        raise OutputError(msg)
    converted, parity = _convert(model, "monai-bundle")
    files = build_bundle_files(model, describe_model(model, "monai-bundle", parity))
    contents = {
        name: _to_json(content) if isinstance(content, dict) else content.encode() for name, content in files.items()
    }
    contents[MODEL] = converted.content
    building = output.with_name(f".{output.name}.{secrets.token_hex(4)}.partial")
    try:
        for name, content in contents.items():
            write_bytes_atomic(building / name, content)
        building.rename(output)
    except OutputError:
        raise
    except OSError as error:
        raise describe_write_error(output, error) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)  # gone already after the rename
    return Export(path=output, files=tuple(output / name for name in contents), parity=parity)


def _to_json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
