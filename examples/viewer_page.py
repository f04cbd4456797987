"""One HTML page to look at a scan and two masks: a synthetic patient, its truth, and a mask that is a little off.

    python examples/viewer_page.py --output runs/viewer --picture

Open ``page.html`` in any browser. With ``--picture`` Chromium opens it without a window and leaves ``viewer.png``;
docs/images/viewer.png is made so.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from medunet.phantoms import make_phantom_case
from medunet.reporting import build_view, write_viewer_page
from medunet.tasks import load_task
from medunet.volume import Volume

TASK, PHANTOM = "prostate-ct", "male-pelvis-ct"
SHIFT_VOXELS = (2, 3, 1)
SIZE_PIXELS = (1120, 720)


def main() -> None:
    """Make a patient, spoil its mask, write the page."""
    arguments = parse_arguments()
    task, case = load_task(TASK), make_phantom_case(PHANTOM, arguments.seed)
    view = build_view(
        case.image, move(case.labels), case.labels, task.labels, title=case.case_id, modality=task.modality
    )
    page = arguments.output / "page.html"
    write_viewer_page(view, page)
    print(f"Page: {page}, {page.stat().st_size / 2**20:.1f} MiB")
    if arguments.picture:
        print(f"Picture: {photograph(page, arguments.output / 'viewer.png')}")


def parse_arguments() -> argparse.Namespace:
    """Three options, all with a default."""
    parser = argparse.ArgumentParser(description="A page to look at a synthetic scan and two masks.")
    parser.add_argument("--output", type=Path, default=Path("runs/viewer"), help="folder (default: runs/viewer)")
    parser.add_argument("--seed", type=int, default=3, help="of the patient (default: 3)")
    parser.add_argument("--picture", action="store_true", help="also draw it with Chromium")
    return parser.parse_args()


def move(labels: Volume) -> Volume:
    """The same mask, some voxels beside its place."""
    return labels.with_array(np.roll(labels.array, SHIFT_VOXELS, axis=(1, 2, 3)))


def photograph(page: Path, picture: Path) -> Path:
    """What Chromium shows of the page; it draws without a graphics card, on any machine."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("error: Chromium is not installed, so there is no picture; install it (Debian: apt install chromium).")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                chromium, "--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
                "--enable-unsafe-swiftshader", "--hide-scrollbars", "--disable-background-networking", "--no-first-run",
                f"--user-data-dir={profile}", f"--window-size={SIZE_PIXELS[0]},{SIZE_PIXELS[1]}",
                "--virtual-time-budget=20000", f"--screenshot={picture.resolve()}", page.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )  # fmt: skip
    return picture


if __name__ == "__main__":
    main()
