"""The documentation says what the code does, where that can be checked simply."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import medunet
from medunet import errors
from medunet.cli.app import app
from medunet.evaluation.tables import CSV_HEADER
from medunet.models.folder import TrainingRecord
from medunet.planning import NetworkPlan, Normalization, Plan
from medunet.tasks import Task, list_tasks
from medunet.training import TrainingSettings
from medunet.training.log import COLUMNS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *[ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")],
    *sorted(DOCS.rglob("*.md")),
]
COMMAND = re.compile(r"(?<![\w/])medunet +((?:tasks show|runs (?:show|diff)|[a-z]+)(?![\w.-]))([^`|;#)]*)")
OPTION = re.compile(r"(?<!\S)(--[a-z][a-z-]*|-[a-z])\b")


def read(page: Path) -> str:
    """The page without comments, which readers do not see."""
    return re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def list_code(text: str) -> Iterator[str]:
    """Lines of shell blocks, and inline code."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        if language in ("sh", "text"):
            yield from block.replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"`([^`]+)`", prose)


def list_options() -> dict[str, set[str]]:
    """Command -> its options, from the command line itself."""
    group: Any = typer.main.get_command(app)
    commands = dict(group.commands)
    for group_name in ("tasks", "runs"):
        commands |= {f"{group_name} {name}": command for name, command in commands[group_name].commands.items()}
    commands["runs"] = commands["runs list"]  # what `medunet runs` does
    everywhere = {"--help", "--debug", "--version"}
    return {
        name: everywhere | {option for parameter in command.params for option in parameter.opts if option[0] == "-"}
        for name, command in commands.items()
    }


def make_anchor(heading: str) -> str:
    """The anchor that a Markdown heading gets on GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    options = list_options()
    for code in list_code(read(page)):
        for command, rest in COMMAND.findall(code):
            assert command in options, f"{page.name}: medunet {command}"
            unknown = set(OPTION.findall(rest)) - options[command]
            assert not unknown, f"{page.name}: {code}"


def test_every_option_is_documented() -> None:
    sections = re.split(r"^## ", read(DOCS / "command-line.md"), flags=re.MULTILINE)
    for command, options in list_options().items():
        name = command.split()[0]
        section = next(section for section in sections if section.startswith(f"medunet {name}\n"))
        for option in options - {"--help", "--debug", "--version"}:
            assert f"`{option}`" in section, f"medunet {command} {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in map(make_anchor, headings), f"{page.name}: {link}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for page in PAGES:
        for code in list_code(read(page)):
            named = re.match(r"make ([a-z]+)", code)
            assert named is None or named.group(1) in targets, f"{page.name}: {code}"


def test_every_picture_of_the_documentation_comes_from_a_command() -> None:
    """And every one that the command writes is shown on a page."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.partition("\npictures:")[2].partition("\n\n")[0]
    written = set(re.findall(r"docs/images/(\S+)", recipe))
    shown = {name for page in PAGES for name in re.findall(r"!\[[^\]]*\]\([^)]*images/([^)]+)\)", read(page))}
    assert written == shown == {path.name for path in (DOCS / "images").iterdir()}


def test_the_tree_in_the_readme_lists_the_code() -> None:
    block = next(
        block
        for block in re.findall(r"^```text\n(.*?)^```", read(ROOT / "README.md"), flags=re.DOTALL | re.MULTILINE)
        if block.startswith("medunet/")
    )
    listed, folders = [], [""]
    for line in block.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        path = folders[depth] + name
        if name.endswith("/"):
            folders[depth + 1 :] = [path]
        else:
            listed.append(path)
        assert name == "medunet/" or "  # " in line, f"no comment: {line}"
    found = [path.relative_to(ROOT).as_posix() for path in (ROOT / "medunet").rglob("*.py")]
    assert sorted(listed) == sorted(found)


@pytest.mark.parametrize("model", [Task, Plan, NetworkPlan, Normalization, TrainingRecord])
def test_every_key_is_in_formats(model: Any) -> None:
    text = read(DOCS / "formats.md")
    assert [name for name in model.model_fields if f"`{name}`" not in text] == []


@pytest.mark.parametrize("names", [COLUMNS, CSV_HEADER, TrainingSettings.__dataclass_fields__])
def test_every_column_and_setting_is_in_formats(names: Any) -> None:
    text = read(DOCS / "formats.md")
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_error_is_explained() -> None:
    classes = [name for name, kind in vars(errors).items() if isinstance(kind, type)]
    assert [name for name in classes if f"| `{name}` |" not in read(DOCS / "errors.md")] == []


def test_every_task_is_in_the_readme() -> None:
    assert [name for name in list_tasks() if f"| `{name}` |" not in read(ROOT / "README.md")] == []


def test_every_public_name_is_in_the_python_api() -> None:
    headings = " ".join(re.findall(r"^## (.+)$", read(DOCS / "python-api.md"), flags=re.MULTILINE))
    assert sorted(re.findall(r"\w+", headings)) == sorted(medunet.__all__)


def test_the_snippets_of_the_python_api_run(tmp_path: Path) -> None:
    """One after the other in an empty folder, as the page says."""
    snippets = re.findall(r"^```python\n(.*?)^```", read(DOCS / "python-api.md"), flags=re.DOTALL | re.MULTILINE)
    script = tmp_path / "snippets.py"
    script.write_text("\n".join(snippets), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "MEDUNET_HOME"}
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "missing.nii.gz does not exist" in done.stdout
    masks = sorted(path.name for path in (tmp_path / "masks").glob("*.nii.gz"))
    assert masks == [f"hippocampus_{number:03d}.nii.gz" for number in range(6)]
