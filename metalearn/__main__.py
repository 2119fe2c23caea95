"""``python -m metalearn``: the command line."""

from metalearn.cli import main

if __name__ == "__main__":  # processes of a benchmark import this module under another name
    main()
