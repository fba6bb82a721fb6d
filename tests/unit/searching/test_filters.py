"""Conditions: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

import numpy as np
import pytest

from openjepa.errors import ConfigError
from openjepa.searching.filters import allowed

COLUMNS = {
    "path": ["holiday/a.jpg", "work/b.jpg", "holiday/C.jpg", "work/d=1.jpg"],
    "label": ["cat", None, "dog", "cat"],
    "start": np.array([0.0, 2.5, np.nan, 10.0]),
    "index": np.array([0, 1, 2, 10]),
}


def rows(*where: str) -> list[int]:
    return np.flatnonzero(allowed(where, COLUMNS, 4)).tolist()


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ([], [0, 1, 2, 3]),
        (["label=cat"], [0, 3]),
        (["label != cat"], [1, 2]),
        (["path~=holiday"], [0, 2]),
        (["path~=^holiday/[a-z]"], [0]),
        (["path=work/d=1.jpg"], [3]),
        (["start>=2.5"], [1, 3]),
        (["start<2.5"], [0]),
        (["start>0", "label=cat"], [3]),
        (["index=10"], [3]),
        (["index=10.0"], [3]),
        (["label=elephant"], []),
        (["label>1"], []),
        (["start!=0"], [1, 2, 3]),
        (["start~=^1"], [3]),
        (["start=soon"], []),
        (["start!=soon"], [0, 1, 2, 3]),
    ],
)
def test_conditions(where: list[str], found: list[int]) -> None:
    assert rows(*where) == found


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("labl=cat", "did you mean 'label'"),
        ("label", "label=cat"),
        ("path~=(", "no regular expression"),
        ("start>soon", "compares numbers"),
        ("=cat", "no condition"),
        ("zzzzqq=1", "path, label, start, index"),
    ],
)
def test_a_condition_that_means_nothing_is_one_line(where: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        rows(where)
    assert "\n" not in str(caught.value)
