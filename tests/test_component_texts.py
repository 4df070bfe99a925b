"Any text is a component in its one spelling, or a ValueError."
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from al_cifar.calls import call_text, parse_call
from al_cifar.components import Register

FRUIT = Register("fruit")
FRUIT.register("apple")(lambda day, *, size=1.0, count=3, name="fuji", parts=(), any=None, ripe=True: ...)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()))
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
PIECES = ["apple", "(", ")", "size", "=", ",", "1e999", "-", "9" * 400, "\0", "\ud800", "'", '"', "(" * 200, "[" * 200,
          "-" * 900, "None", "count", "any", "()", "\n", "\\", "#", "1j", "lambda", "*", "\u00aa", "0x", "\x0c", "{", ":=", "f'{x}'"]
ANY = (st.text(st.characters(exclude_categories=())) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
       | st.lists(st.sampled_from(PIECES), max_size=8).map(lambda pieces: f"apple(any={''.join(pieces)})"))


def check_text(text):
    try: spelled = FRUIT.spell(text)
    except ValueError: return
    assert FRUIT.spell(spelled) == spelled
    assert repr(FRUIT.find(spelled)[1]) == repr(FRUIT.find(text)[1])


def check_call(values):
    text = call_text("apple", values)
    try: name, got = parse_call(text)
    except ValueError: return  # inf and nan, surrogates, and more than 1,000 characters
    assert name == "apple" and repr(got) == repr(values)


KEYWORDS = st.dictionaries(st.sampled_from(["size", "count", "name", "parts", "any", "ripe"]), VALUES)


@settings(max_examples=300, deadline=None)
@given(ANY)
@example("apple(any=" + "(" * 480 + ")" * 480 + ")")
@example("apple(any=" + "-" * 900 + "1)")
@example("apple(any=1e999)")
@example("apple(any=" + "9" * 900 + ")")
@example("apple(any='\ud800')")
@example("apple(any=\0)")
@example("apple(any=0x" + "f" * 980 + ")")
@example("apple(count=0x" + "f" * 980 + ")")
@example("apple(any={[]: 1})")
@example("apple(any={1, []})")
def test_any_text(text): check_text(text)


@settings(max_examples=200, deadline=None)
@given(KEYWORDS)
def test_values_survive(values): check_call(values)


@pytest.mark.slow
@settings(max_examples=50_000, deadline=None)
@given(ANY, KEYWORDS)
def test_many_texts(text, values):
    check_text(text)
    check_call(values)
