"""Label names travel in a header extension that other programs skip, or in a JSON file beside the mask."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nifti_files import CANARY, OBLIQUE, RAMP, build_scan, make_labels, read_raw_header, save

from medunet.errors import LabelError, VolumeError
from medunet.io.label_names import name_sidecar, write_label_names
from medunet.io.nifti_labels import read_nifti_label_names, read_nifti_structures
from medunet.io.nifti_read import read_nifti
from medunet.io.nifti_write import write_nifti_labels
from medunet.io.structures import Code, Structure, StructureSet
from medunet.volume import Volume

BLADDER = Structure(
    name="bladder", values=(1,), color=(1, 2, 3), code=Code(value="89837001", meaning="Urinary bladder")
)
REST = Structure(name="Prostata ü 心", values=(2, 3), color=(255, 0, 128))


def make_structures(*structures: Structure, labels: Volume | None = None) -> StructureSet:
    return StructureSet(layers=labels or make_labels(), structures=structures or (BLADDER, REST))


def write(path: Path, *structures: Structure, **options: Any) -> Path:
    structure_set = make_structures(*structures)
    write_nifti_labels(structure_set.to_label_map(), path, structures=structure_set, **options)
    return path


def add_extensions(path: Path, *contents: bytes, endianness: str = "<") -> Path:
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.uint8), OBLIQUE, nib.Nifti1Header(endianness=endianness))
    for content in contents:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", content))
    nib.save(image, path)
    return path


# ---- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_names_come_back_from_the_file(tmp_path: Path, ending: str) -> None:
    again = read_nifti_structures(write(tmp_path / f"mask{ending}"))
    assert again is not None
    assert again.structures == (BLADDER, REST)
    np.testing.assert_array_equal(again.layers.array, make_labels().array)
    np.testing.assert_allclose(again.layers.affine, OBLIQUE, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == [f"mask{ending}"]


@settings(max_examples=25, deadline=None)
@given(
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60),
    values=st.lists(st.integers(1, 2**24 - 1), min_size=1, max_size=5, unique=True),
    color=st.tuples(*[st.integers(0, 255)] * 3),
    code=st.none()
    | st.builds(Code, value=st.text(max_size=9), meaning=st.text(max_size=9), scheme=st.text(max_size=4)),
)
def test_any_structure_comes_back_and_the_voxels_with_it(
    tmp_path_factory: Any, name: str, values: list[int], color: Any, code: Code | None
) -> None:
    structure = Structure(name=name, values=tuple(values), color=color, code=code)
    path = write(tmp_path_factory.mktemp("names") / "mask.nii", structure)
    assert read_nifti_label_names(path) == (structure,)
    np.testing.assert_array_equal(read_nifti(path).array, make_labels().array)
    header = read_raw_header(path)
    assert int(header["vox_offset"]) % 16 == 0
    np.testing.assert_array_equal(nib.load(path).dataobj, make_labels().array[0])


def test_the_extension_is_a_comment_of_json_in_ascii(tmp_path: Path) -> None:
    header: Any = nib.load(write(tmp_path / "mask.nii")).header
    (extension,) = header.extensions
    assert extension.get_code() == 6
    assert extension.get_sizeondisk() % 16 == 0
    text = extension.get_content()
    assert json.loads(text) == {
        "medunet": {
            "labels": [
                {
                    "name": "bladder", "values": [1], "color": [1, 2, 3],
                    "code": {"value": "89837001", "meaning": "Urinary bladder", "scheme": "SCT"},
                },
                {"name": "Prostata ü 心", "values": [2, 3], "color": [255, 0, 128]},
            ]
        }
    }  # fmt: skip
    assert (tmp_path / "mask.nii").read_bytes().split(b'{"medunet"')[1][:200].isascii()


@pytest.mark.parametrize("kind", ["nifti1", "nifti2", "nifti1 big-endian", "nifti2 big-endian", "nifti1 pair"])
def test_row_36_a_mask_like_a_scan_has_its_names_and_no_text_of_the_scan(tmp_path: Path, kind: str) -> None:
    scan = build_scan(kind, tmp_path)
    structures = make_structures(labels=make_labels(read_nifti(scan).affine))
    write_nifti_labels(structures.layers, tmp_path / "mask.nii", like=scan, structures=structures)
    content = (tmp_path / "mask.nii").read_bytes()
    assert CANARY not in content
    assert b"Canary" not in content
    again = read_nifti_structures(tmp_path / "mask.nii")
    assert again is not None
    assert again.structures == (BLADDER, REST)
    np.testing.assert_array_equal(again.layers.array, structures.layers.array)
    np.testing.assert_array_equal(again.layers.affine, structures.layers.affine)


def test_same_structures_give_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.nii.gz").read_bytes() == write(tmp_path / "b.nii.gz").read_bytes()


def test_a_mask_without_structures_has_no_extension(tmp_path: Path) -> None:
    write_nifti_labels(make_labels(), tmp_path / "mask.nii")
    assert int(read_raw_header(tmp_path / "mask.nii")["vox_offset"]) == 352
    assert read_nifti_structures(tmp_path / "mask.nii") is None


def test_several_layers_are_to_be_split(tmp_path: Path) -> None:
    layers = Volume(np.repeat(make_labels().array, 2, axis=0), OBLIQUE)
    overlapping = StructureSet(layers=layers, structures=(BLADDER, Structure(name="ctv", values=(2,), layer=1)))
    with pytest.raises(LabelError, match=r"'bladder', 'ctv' overlap or lie in 2 layers; .* --split\."):
        write_nifti_labels(make_labels(), tmp_path / "mask.nii", structures=overlapping)
    with pytest.raises(LabelError, match="2 layers"):
        write_label_names(overlapping, tmp_path / "mask.json")
    assert not list(tmp_path.iterdir())


# ---- names and values ------------------------------------------------------------------------------------------------


def test_values_without_a_name_are_called_by_their_value(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "mask.nii", BLADDER)
    again = read_nifti_structures(path)
    assert again is not None
    assert [(structure.name, structure.values) for structure in again.structures] == [
        ("bladder", (1,)), ("label 2", (2,)), ("label 3", (3,)),
    ]  # fmt: skip
    assert caplog.messages == [f"{path} holds the values 2, 3 without a name; they are called 'label <value>'."]


def test_a_named_label_without_a_voxel_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    again = read_nifti_structures(write(tmp_path / "mask.nii", BLADDER, REST, Structure(name="seed", values=(900,))))
    assert again is not None
    assert [structure.name for structure in again.structures] == ["bladder", "Prostata ü 心", "seed"]
    assert not again.get_mask(again.structures[2]).any()
    assert not caplog.records


def test_row_32_names_do_not_make_labels_of_an_image(tmp_path: Path) -> None:
    save(tmp_path / "mask.nii", RAMP, slope=0.25)
    write_label_names(make_structures(), tmp_path / "mask.json")
    with pytest.raises(LabelError, match=r"mask\.nii holds labels that are no whole numbers"):
        read_nifti_structures(tmp_path / "mask.nii")


def test_structures_are_read_with_the_affine_and_the_volume_asked_for(tmp_path: Path) -> None:
    labels = np.stack([make_labels().array[0], np.zeros((5, 6, 7), np.int64)], axis=-1).astype(np.uint8)
    save(tmp_path / "mask.nii", labels, qform_code=1, qoffset_x=99)
    write_label_names(make_structures(), tmp_path / "mask.json")
    again = read_nifti_structures(tmp_path / "mask.nii", affine="qform", volume_index=0)
    assert again is not None
    np.testing.assert_array_equal(again.layers.array, make_labels().array)
    assert again.layers.affine[0, 3] == 99


# ---- what other programs leave ---------------------------------------------------------------------------------------


def test_the_file_beside_the_mask_is_read_where_the_mask_has_no_names(tmp_path: Path) -> None:
    write_nifti_labels(make_labels(), tmp_path / "mask.nii.gz")
    write_label_names(make_structures(), tmp_path / "mask.json")
    assert read_nifti_label_names(tmp_path / "mask.nii.gz") == (BLADDER, REST)
    write(tmp_path / "mask.nii.gz", BLADDER)
    assert read_nifti_label_names(tmp_path / "mask.nii.gz") == (BLADDER,)


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("half", [".hdr", ".img"])
def test_names_in_either_half_of_a_pair(tmp_path: Path, half: str, is_compressed: bool) -> None:
    content = write(tmp_path / "mask.nii").read_bytes()
    offset = int(read_raw_header(tmp_path / "mask.nii")["vox_offset"])
    header = nib.Nifti1Header(content[:348], check=False)
    header["magic"], header["vox_offset"] = b"ni1", 0
    head = header.binaryblock + content[348:offset]
    (tmp_path / "pair.hdr").write_bytes(gzip.compress(head) if is_compressed else head)
    (tmp_path / "pair.img").write_bytes(content[offset:])
    again = read_nifti_structures(tmp_path / f"pair{half}")
    assert again is not None
    assert again.structures == (BLADDER, REST)
    np.testing.assert_array_equal(again.layers.array, make_labels().array)


@pytest.mark.parametrize("endianness", ["<", ">"])
def test_names_among_extensions_of_other_programs(tmp_path: Path, endianness: str) -> None:
    ours = b'{"medunet": {"labels": [{"name": "a", "values": [1], "color": [0, 0, 0]}]}}'
    path = add_extensions(tmp_path / "mask.nii.gz", CANARY, b"{}", b"x" * 999, ours, endianness=endianness)
    assert read_nifti_label_names(path) == (Structure(name="a", values=(1,), color=(0, 0, 0)),)


@pytest.mark.parametrize("contents", [(), (CANARY,), (b'{"other": 1}',), (b"",), (b"\xff\xfe" * 30,)])
def test_comments_of_other_programs_are_no_names(tmp_path: Path, contents: Any) -> None:
    assert read_nifti_structures(add_extensions(tmp_path / "mask.nii", *contents)) is None


@pytest.mark.parametrize("text", [b'{"EchoTime": 0.03, "PatientName": "Canary"}', b"[]", b"", b"Canary", b"\xff\xfe"])
def test_the_json_file_of_another_program_is_left_alone(tmp_path: Path, text: bytes) -> None:
    write_nifti_labels(make_labels(), tmp_path / "mask.nii")
    (tmp_path / "mask.json").write_bytes(text)
    assert read_nifti_structures(tmp_path / "mask.nii") is None


def test_damaged_names_of_ours_are_refused_and_not_quoted(tmp_path: Path) -> None:
    path = add_extensions(tmp_path / "mask.nii", b'{"medunet": {"labels": [{"name": "Canary"}]}}')
    with pytest.raises(
        LabelError, match=r"mask\.nii holds label names .*at 'medunet\.labels\.0\.values': Field"
    ) as caught:
        read_nifti_structures(path)
    assert "Canary" not in str(caught.value)
    np.testing.assert_array_equal(read_nifti(path).array, 1)  # the voxels are none the worse


def test_a_damaged_file_of_ours_beside_the_mask_is_refused(tmp_path: Path) -> None:
    write_nifti_labels(make_labels(), tmp_path / "mask.nii")
    write_label_names(make_structures(), tmp_path / "mask.json")
    (tmp_path / "mask.json").write_bytes((tmp_path / "mask.json").read_bytes()[:-9])
    with pytest.raises(LabelError, match=r"mask\.json holds label names that cannot be understood"):
        read_nifti_structures(tmp_path / "mask.nii")


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "extension",
    [
        (0).to_bytes(4, "little"),
        (8).to_bytes(4, "little"),
        (-16).to_bytes(4, "little", signed=True),
        (2**31 - 1).to_bytes(4, "little"),
        (10**6).to_bytes(4, "little"),
    ],
)
def test_damaged_extensions_neither_hang_nor_hide_the_voxels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, extension: bytes
) -> None:
    path = add_extensions(tmp_path / "mask.nii", b"x" * 40)
    content = bytearray(path.read_bytes())
    content[352:356] = extension
    path.write_bytes(content)
    assert read_nifti_structures(path) is None
    assert caplog.messages == [f"{path} has damaged header extensions; label names in them, if any, are not read."]
    np.testing.assert_array_equal(read_nifti(path).array, 1)


@pytest.mark.timeout(10)
def test_a_million_extensions_are_not_walked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = nib.Nifti1Image(np.ones((3, 4, 5), np.uint8), OBLIQUE).to_bytes()
    header = nib.Nifti1Header(content[:348], check=False)
    header["vox_offset"] = 352 + 16 * 10**6
    extensions = ((16).to_bytes(4, "little") + bytes(12)) * 10**6
    (tmp_path / "mask.nii.gz").write_bytes(
        gzip.compress(header.binaryblock + b"\1\0\0\0" + extensions + content[352:], compresslevel=1)
    )
    assert read_nifti_label_names(tmp_path / "mask.nii.gz") is None
    assert "has damaged header extensions" in caplog.text


@pytest.mark.parametrize(
    ("content", "match"), [(b"<html>", "it is an HTML page"), (b"", "it is empty"), (b"\x1f\x8b\x08", "end too early")]
)
def test_row_27_what_is_no_mask(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "mask.nii.gz").write_bytes(content)
    with pytest.raises(VolumeError, match=match):
        read_nifti_structures(tmp_path / "mask.nii.gz")


def test_row_35_a_missing_mask(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"gone\.nii does not exist"):
        read_nifti_structures(tmp_path / "gone.nii")


def test_the_place_beside_the_mask() -> None:
    names = ("p012.nii.gz", "p012.nii", "P.NII.GZ", "a.b.nii")
    assert [name_sidecar(Path("out") / name).name for name in names] == ["p012.json", "p012.json", "P.json", "a.b.json"]
