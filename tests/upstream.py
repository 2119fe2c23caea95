"""For tests that show a fault of a library: they fail on the day the fault is gone."""


def still_wrong(wrong: bool, fault: str) -> None:
    """Fail when a fault is no longer there: the notes that warn of it, and perhaps code that avoids it, can go."""
    assert wrong, f"upstream fixed this: update docs/learn2learn-notes.md ({fault})"
