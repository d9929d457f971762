"""A sentence about an interval must agree with it."""

from types import SimpleNamespace

from helpers import user_error
from pytest import mark

from report.claims import broken_claims

DIFFERENCES = {
    "ahead": (0.2, 1.4),
    "behind": (-1.4, -0.2),
    "level": (-0.4, 0.9),
    "to-0": (-1, 0),
    "from-0": (0, 1),
}
SHARES = {"share": (0.88, 0.93)}


def claims_of(field: str) -> list[str]:
    """Check a field after a field without results."""

    def ends(intervals):
        return lambda name: dict(zip(("ci95_low", "ci95_high"), intervals.get(name, ()))) or None

    numbers = SimpleNamespace(difference=ends(DIFFERENCES), share=ends(SHARES))
    return broken_claims(f"{{{{ gap absent }}}}\n{{{{ {field} }}}}", numbers, "a.md")


@mark.parametrize(
    "field",
    [
        *("gap ahead", "gap ahead | above", "gap level | unclear", "gap behind | below"),
        *("gap to-0 | unclear", "gap from-0 | unclear", "gap ahead | unclear 1", "gap ahead | below 2"),
        *("ratio share", "ratio share | unclear 90", "ratio share | below 95", "ratio share | above 85"),
    ],
)
def test_claims_that_hold(field):
    assert claims_of(field) == []


@mark.parametrize(
    "field, verdict",
    [
        *(("gap level", "unclear"), ("gap behind", "below"), ("gap ahead | unclear", "above")),
        *(("ratio share | above 90", "unclear"), ("ratio share | unclear 100", "below")),
    ],
)
def test_a_claim_that_the_results_do_not_support_is_named_with_its_line(field, verdict):
    (message,) = claims_of(field)
    assert message.startswith("a.md:2: ") and f"is {verdict}:" in message


@mark.parametrize("claim", ["equal", "above", "above x", "above 9 0", "unclear 90 %"])
def test_an_unknown_claim_is_refused(claim):
    with user_error(r"a\.md:2: the claim '.*' is unknown"):
        claims_of(f"ratio share | {claim}")


def test_only_an_interval_has_a_claim():
    assert claims_of("top1 ahead") == []
    with user_error(r"a\.md:2: top1 has no interval and so no claim: remove `. above 3`"):
        claims_of("top1 ahead | above 3")
