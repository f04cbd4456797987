"""``python -m medunet`` is the command ``medunet``."""

from medunet.cli.app import main

if __name__ == "__main__":
    main()
