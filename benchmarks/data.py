"""How fast glyphs are drawn.

Run: python benchmarks/data.py [rounds]
"""

import sys

from measuring import interleaved

from tasks.glyphs import glyph_store


def main(rounds: int) -> None:
    """Print the seconds that all glyphs take."""
    seconds = interleaved({"glyphs": glyph_store}, rounds)["glyphs"].min()
    print(f"glyphs: 24,000 images of 1,200 classes in {seconds:.1f} s, best of {rounds}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
