"""What the tests of harmful pickles share."""

import io
import re

import pytest

from tasks.errors import DataError
from tasks.safe_pickle import load

ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"  # an array before its state


def read(data: bytes):
    return load(io.BytesIO(data), "evil.pkl")


def refused(data: bytes, words: str) -> None:
    """Reading raises a DataError that names the file and says these words."""
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        read(data)
    assert str(caught.value).startswith("evil.pkl ") and len(str(caught.value)) < 600
