"""Structure names lead to the labels that are meant, or to an error that says how to choose."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.errors import InputError, LabelError, TaskError
from medunet.io.structures import StructureSet, from_masks
from medunet.tasks import (
    Task,
    check_mapping,
    list_tasks,
    load_task,
    match_structure,
    parse_mapping,
    parse_task,
    structures_to_labels,
)
from medunet.volume import Volume

SHAPE = (5, 4, 3)
AFFINE = np.array([[0.0, -1.2, 0, 8], [-0.7, 0, 0, -3], [0, 0, 3.0, 11], [0, 0, 0, 1]])
PELVIS = {"name": "pelvis-ct", "title": "x", "modality": "CT", "channels": ["ct"], "intensity": "none"}


def build_task(labels: Any = None, **changes: Any) -> Task:
    labels = labels or {"prostate": 1, "bladder": 2, "femur_left": [40, 41]}
    return Task.model_validate(PELVIS | {"labels": labels} | changes)


def build_structures(**boxes: Any) -> StructureSet:
    """Structures by name; each is a list of voxel indices, or a slice of planes along I."""
    masks = []
    for name, where in boxes.items():
        mask = np.zeros(SHAPE, bool)
        if isinstance(where, slice):
            mask[where] = True
        for voxel in [] if isinstance(where, slice) else where:
            mask[voxel] = True
        masks.append((name, mask))
    return from_masks(masks, Volume(np.zeros((1, *SHAPE), np.uint8), AFFINE))


def find_voxels(labels: Volume, value: int) -> list[tuple[int, ...]]:
    return [tuple(voxel) for voxel in np.argwhere(labels.array[0] == value).tolist()]


# ---- one name --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("prostate", "prostate"),
        ("PROSTATE", "prostate"),
        (" Prostate ", "prostate"),
        ("Prostata", "prostate"),
        ("Femur_Head_L", "femoral_head_left"),
        ("FEMUR HEAD.R", "femoral_head_right"),
        ("femoral-head-left", "femoral_head_left"),
        ("SeminalVes", "seminal_vesicles"),
        ("Urinary bladder", "bladder"),
        ("\uff32\uff45\uff43\uff54\uff55\uff4d", "rectum"),  # full-width letters
        ("CTV_p", None),
        ("PTV_prostate", None),
        ("Bladder_wall", None),
        ("Femur_L", None),  # the whole bone, not its head
        ("BODY", None),
        ("", None),
        ("_", None),
    ],
)
def test_clinical_names(name: str, label: str | None) -> None:
    assert match_structure(name, load_task("prostate-ct")) == label


def test_left_and_right_are_never_mixed_up() -> None:
    for task in map(load_task, list_tasks()):
        for label, synonyms in task.synonyms.items():
            for synonym in synonyms:
                sides = {side for side in ("left", "right") if label.endswith(f"_{side}")}
                words = set(synonym.lower().replace("_", " ").split())
                found = {"left" for word in words if word in ("l", "left")} | {
                    "right" for word in words if word in ("r", "right")
                }
                assert found == sides, (label, synonym)


def test_a_mapping_comes_before_names_and_synonyms() -> None:
    task = build_task(synonyms={"prostate": "Prostata"})
    assert match_structure("bladder", task, {"bladder": "prostate"}) == "prostate"
    assert match_structure("PROSTATA", task, {"prostata": "bladder"}) == "bladder"
    assert match_structure("ctv.P", task, {"CTV_p": "prostate"}) == "prostate"
    assert match_structure("CTV_p2", task, {"CTV_p": "prostate"}) is None


def test_the_exact_name_wins_where_labels_differ_by_nothing_else() -> None:
    task = build_task({"a_b": 1, "ab": 2})
    assert match_structure("ab", task) == "ab"
    assert match_structure("a_b", task) == "a_b"
    assert match_structure("A-B", task) is None  # either could be meant


@settings(max_examples=50, deadline=None)
@given(
    label=st.sampled_from(list(load_task("headneck-ct").labels)),
    junk=st.lists(st.sampled_from(["", " ", "_", "-", ".", "\t"]), min_size=40, max_size=40),
    upper=st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_spelling_makes_no_difference(label: str, junk: list[str], upper: list[bool]) -> None:
    letters = [letter for letter in label if letter != "_"]
    spelt = "".join(
        (letter.upper() if is_upper else letter) + between
        for letter, between, is_upper in zip(letters, junk, upper, strict=False)
    )
    assert match_structure(spelt, load_task("headneck-ct")) == label


# ---- mappings --------------------------------------------------------------------------------------------------------


def test_mapping_of_the_command_line() -> None:
    assert parse_mapping(["CTV_p=prostate", " a=b = bladder "]) == {"CTV_p": "prostate", "a=b": "bladder"}
    assert parse_mapping([]) == {}


@pytest.mark.parametrize("entry", ["prostate", "=prostate", "CTV_p=", "", "="])
def test_a_mapping_without_both_sides_is_refused(entry: str) -> None:
    with pytest.raises(InputError, match=r"--map is '.*'; expected NAME=label"):
        parse_mapping([entry])


def test_a_name_with_two_labels_is_refused() -> None:
    with pytest.raises(InputError, match="gives 'CTV' two labels, prostate and bladder"):
        parse_mapping(["CTV=prostate", "CTV=bladder"])
    with pytest.raises(TaskError, match="gives 'c_tv' two labels, prostate and bladder"):
        check_mapping({"CTV": "prostate", "c_tv": "bladder"}, build_task())
    check_mapping({"CTV": "prostate", "c_tv": "prostate"}, build_task())


def test_a_mapping_to_an_unknown_label_names_the_nearest() -> None:
    with pytest.raises(
        TaskError, match=r"'CTV=prostat' names a label .* 'pelvis-ct' does not have; did you mean 'pros"
    ):
        structures_to_labels(build_structures(CTV=[(0, 0, 0)]), build_task(), mapping={"CTV": "prostat"}, name="x.dcm")


# ---- synonyms of a task ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("synonyms", "message"),
    [
        ({"prostat": ["a"]}, "'prostat' is not among the labels; did you mean 'prostate'"),
        ({"prostate": ["Bladder"]}, "'Bladder' of label 'prostate' is also the name of label 'bladder'"),
        ({"bladder": ["x"], "prostate": ["X_"]}, "'X_' of label 'prostate' is also a synonym of label 'bladder'"),
        ({"prostate": ["."]}, "'.' of label 'prostate' holds no letter"),
        ({"prostate": [3]}, "synonyms.prostate.0: Input should be a valid string"),
        ({"prostate": 3}, "synonyms.prostate: Input should be"),
        (["prostate"], "synonyms: Input should be a valid dictionary"),
    ],
)
def test_faulty_synonyms_are_named(synonyms: Any, message: str) -> None:
    content = PELVIS | {"labels": {"prostate": 1, "bladder": 2}, "synonyms": synonyms}
    with pytest.raises(TaskError, match=message):
        parse_task(content, "recipe.yaml")


def test_own_names_and_repeats_do_no_harm() -> None:
    task = build_task(synonyms={"prostate": ["Prostate", "GTV", "gtv_"], "bladder": "Blase"})
    assert task.synonyms == {"prostate": ("Prostate", "GTV", "gtv_"), "bladder": ("Blase",)}
    assert Task.model_validate_json(task.model_dump_json()) == task


# ---- a label map -----------------------------------------------------------------------------------------------------


def test_structures_become_the_values_of_the_task() -> None:
    structures = build_structures(BODY=slice(None), Femur_Left=[(4, 3, 2)], Bladder=[(1, 2, 0), (1, 2, 1)], Prostate=[])
    labels = structures_to_labels(structures, build_task(), name="x.dcm")
    assert labels.array.dtype == np.uint8
    assert labels.shape == (1, *SHAPE)
    np.testing.assert_array_equal(labels.affine, AFFINE)
    assert find_voxels(labels, 2) == [(1, 2, 0), (1, 2, 1)]
    assert find_voxels(labels, 40) == [(4, 3, 2)]  # the first value of a label that has several
    assert (labels.array == 0).sum() == np.prod(SHAPE) - 3


def test_large_values_need_a_wider_type() -> None:
    labels = structures_to_labels(build_structures(a=[(0, 0, 0)]), build_task({"a": 700}), name="x")
    assert labels.array.dtype == np.int32
    assert find_voxels(labels, 700) == [(0, 0, 0)]


def test_what_is_absent_empty_or_unknown_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    structures = build_structures(Prostate=[(0, 0, 0)], Bladder=[], BODY=slice(None), Couch=[])
    structures_to_labels(structures, build_task(), name="case/rs.dcm")
    said = [(record.levelname, record.message) for record in caplog.records]
    assert said == [
        ("INFO", "case/rs.dcm: 'BODY', 'Couch' mean no label of task 'pelvis-ct'."),
        ("WARNING", "case/rs.dcm: 'Bladder' without a voxel."),
        ("WARNING", "case/rs.dcm: no structure for femur_left; such voxels count as background."),
    ]


def test_a_complete_set_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    structures_to_labels(build_structures(a=[(0, 0, 0)], b=[(1, 0, 0)]), build_task({"a": 1, "b": 2}), name="x")
    assert not caplog.records


def test_no_label_at_all_lists_both_sides_and_the_way_out() -> None:
    structures = build_structures(CTV_p=[(0, 0, 0)], BODY=slice(None))
    with pytest.raises(LabelError) as caught:
        structures_to_labels(structures, build_task(), name="case/rs.dcm")
    assert str(caught.value) == (
        "case/rs.dcm holds no label of task 'pelvis-ct': it lists 'CTV_p', 'BODY'; expected some of prostate, bladder, "
        'femur_left. Say which is which, for example by --map "CTV_p=prostate", or choose another task.'
    )


def test_a_set_without_structures() -> None:
    with pytest.raises(LabelError, match=r"it lists nothing; expected some of prostate.*--map \"NAME=label\""):
        structures_to_labels(build_structures(), build_task(), name="rs.dcm")


def test_labels_that_are_all_empty_are_background() -> None:
    labels = structures_to_labels(build_structures(Prostate=[], Bladder=[]), build_task(), name="rs.dcm")
    assert not labels.array.any()


def test_overlap_is_refused_with_both_and_the_count() -> None:
    structures = build_structures(Prostate=slice(1, 3), BLADDER=slice(2, 5))
    with pytest.raises(
        LabelError,
        match=r"^rs\.dcm: 'Prostate' \(prostate\) and 'BLADDER' \(bladder\) share 12 voxels; expected none",
    ):
        structures_to_labels(structures, build_task(), name="rs.dcm")


def test_overlap_with_an_unused_structure_does_not_matter() -> None:
    structures = build_structures(Prostate=slice(1, 3), PTV=slice(0, 5))
    assert len(find_voxels(structures_to_labels(structures, build_task(), name="rs.dcm"), 1)) == 24


def test_two_structures_for_one_label_are_refused() -> None:
    structures = build_structures(Prostate=[(0, 0, 0)], PROSTATE_=[(1, 0, 0)])
    with pytest.raises(
        LabelError,
        match=r"holds 2 structures for the label 'prostate': 'Prostate', 'PROSTATE_'; .* --map \"Prostate=pro",
    ):
        structures_to_labels(structures, build_task(), name="rs.dcm")


def test_a_mapping_decides_between_two_structures(caplog: pytest.LogCaptureFixture) -> None:
    structures = build_structures(Prostate=[(0, 0, 0)], PROSTATE2=[(1, 0, 0)], Prostata=[(2, 0, 0)])
    task = build_task(synonyms={"prostate": ["Prostata"]})
    labels = structures_to_labels(structures, task, mapping={"PROSTATE2": "prostate"}, name="rs.dcm")
    assert find_voxels(labels, 1) == [(1, 0, 0)]
    assert "rs.dcm: 'Prostate', 'Prostata' not used, as another structure has the better claim" in caplog.text


def test_the_name_of_a_label_beats_its_synonyms(caplog: pytest.LogCaptureFixture) -> None:
    structures = build_structures(Prostata=[(2, 0, 0)], Prostate=[(0, 0, 0)])
    labels = structures_to_labels(structures, build_task(synonyms={"prostate": "Prostata"}), name="rs.dcm")
    assert find_voxels(labels, 1) == [(0, 0, 0)]
    assert "'Prostata' not used" in caplog.text


def test_an_empty_structure_makes_way_for_a_synonym(caplog: pytest.LogCaptureFixture) -> None:
    structures = build_structures(Prostate=[], Prostata=[(2, 0, 0)])
    labels = structures_to_labels(structures, build_task(synonyms={"prostate": "Prostata"}), name="rs.dcm")
    assert find_voxels(labels, 1) == [(2, 0, 0)]
    assert "'Prostate' without a voxel" in caplog.text


def test_several_structures_mapped_to_one_label_are_one() -> None:
    structures = build_structures(Lobe_A=slice(0, 2), Lobe_B=slice(1, 3))
    labels = structures_to_labels(
        structures, build_task(), mapping={"lobe a": "prostate", "LobeB": "prostate"}, name="rs.dcm"
    )
    assert len(find_voxels(labels, 1)) == 36


# ---- regions ---------------------------------------------------------------------------------------------------------

REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "cyst": 9}


def test_regions_are_painted_from_the_outside_in() -> None:
    structures = build_structures(enhancing=slice(2, 3), whole=slice(0, 4), core=slice(1, 3))
    labels = structures_to_labels(structures, build_task(REGIONS), name="x")
    assert labels.array[0, :, 0, 0].tolist() == [1, 2, 3, 1, 0]


def test_a_region_may_lack_the_one_around_it() -> None:
    structures = build_structures(enhancing=slice(2, 3), whole=slice(0, 4))
    assert structures_to_labels(structures, build_task(REGIONS), name="x").array[0, :, 0, 0].tolist() == [1, 1, 3, 1, 0]


def test_a_region_that_reaches_out_is_said(caplog: pytest.LogCaptureFixture) -> None:
    structures = build_structures(whole=slice(0, 2), core=slice(1, 3), enhancing=slice(1, 2))
    labels = structures_to_labels(structures, build_task(REGIONS), name="x.dcm")
    assert labels.array[0, :, 0, 0].tolist() == [1, 3, 2, 0, 0]
    assert "x.dcm: 12 voxels of 'core' lie outside 'whole', which contains it; they count as both." in caplog.text
    assert "of 'enhancing'" not in caplog.text


def test_labels_that_are_not_nested_must_not_overlap_beside_regions_either() -> None:
    structures = build_structures(whole=slice(0, 3), core=slice(1, 3), cyst=slice(2, 4))
    with pytest.raises(LabelError, match=r"share 12 voxels"):
        structures_to_labels(structures, build_task(REGIONS), name="x")


# ---- hostile names ---------------------------------------------------------------------------------------------------


def test_names_cannot_break_a_message() -> None:
    structures = build_structures(**{"evil\nname\x1b[31m": slice(0, 1), "long" * 99: slice(1, 2)})
    with pytest.raises(LabelError) as caught:
        structures_to_labels(structures, build_task(), name="rs.dcm")
    message = str(caught.value)
    assert message.isprintable()
    assert "'evil?name?[31m'" in message
    assert len(message) < 500


def test_many_names_are_cut_short() -> None:
    structures = build_structures(**{f"zone {number}": [] for number in range(40)})
    with pytest.raises(LabelError, match=r"'zone 11' and 28 more; expected"):
        structures_to_labels(structures, build_task(), name="rs.dcm")
