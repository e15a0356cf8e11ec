"""`make test` leaves out cases of tests that try many, never a whole group, and the same ones on every machine."""

from support.sampling import group_of, left_out

CASES = [
    (group, f"tests/test_x.py::{group}[{i}]", share) for group, share in (("a", 0.25), ("b", 0.1)) for i in range(8)
]


def test_each_group_keeps_its_share_and_at_least_one():
    kept = {name for _, name, _ in CASES} - left_out(CASES)
    assert [sum(f"::{group}[" in name for name in kept) for group in "ab"] == [2, 1]
    assert left_out(reversed(CASES)) == left_out(CASES)
    assert not left_out([("a", "x::one", 0.1), ("b", "x::two", 0.1)])


def test_a_group_is_a_parameter_or_made_of_them():
    given = {"words": ["clew", "bench", "flipping"], "name": "vit"}
    assert group_of("name", given) == "vit"
    assert group_of(lambda given: given["words"][1:2], given) == "['bench']"
    assert group_of(None, given) == "None"
