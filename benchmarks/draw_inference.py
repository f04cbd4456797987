"""Draw the figures of ``bench_inference.py`` once more, from the table that it wrote.

    python benchmarks/draw_inference.py docs/benchmarks/inference.csv -o docs/images/bench-inference.png

``make pictures`` does so; nothing is measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from peers.inference_report import draw, read_rows


def main() -> None:
    """Read the table, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="inference.csv")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG file")
    arguments = parser.parse_args()
    draw(read_rows(arguments.table), arguments.output)
    print(f"Picture: {arguments.output}")


if __name__ == "__main__":
    main()
