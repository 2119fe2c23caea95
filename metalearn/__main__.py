"""``python -m metalearn``: the command line."""

from metalearn.cli import main

main()
