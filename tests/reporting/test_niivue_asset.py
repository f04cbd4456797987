"""NiiVue lies in the package as its authors built it, and what is said about it is true."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from medunet.reporting.page import read_viewer_scripts

ROOT = Path(__file__).parents[2]
VERSION = "0.69.0"
SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
"""Of ``package/dist/niivue.umd.js`` in https://registry.npmjs.org/@niivue/niivue/-/niivue-0.69.0.tgz; docs/viewer.md says
how it is replaced."""


def test_it_is_what_its_authors_published() -> None:
    content = (ROOT / "medunet" / "reporting" / "assets" / "niivue.umd.js").read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256
    assert read_viewer_scripts()[0].text.encode() == content


def test_it_can_stand_within_a_page() -> None:
    """These would end the script that holds it, or change what its hash is of."""
    script = read_viewer_scripts()[0].text
    assert not re.search(r"</script|<!--|\r|\x00", script, flags=re.IGNORECASE)


def test_version_and_licences_are_told() -> None:
    licences = (ROOT / "medunet" / "reporting" / "assets" / "niivue-LICENSES.txt").read_text("utf-8")
    assert f"NiiVue {VERSION}" in licences
    assert f"niivue-{VERSION}.tgz" in licences
    assert f'"{VERSION}"' in read_viewer_scripts()[0].text
    for package in ("fflate", "gl-matrix", "nifti-reader-js", "zarrita", "numcodecs", "Roboto"):
        assert package in licences
    assert VERSION in (ROOT / "docs" / "viewer.md").read_text("utf-8")
    assert "niivue-LICENSES.txt" in (ROOT / "NOTICE").read_text("utf-8")
