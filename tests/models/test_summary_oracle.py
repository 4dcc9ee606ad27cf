"""The printed summary against Keras's own, character for character and, in a terminal, style for style."""

import functools
import io
import re
import sys

import numpy as np
import pytest

pytest.importorskip("keras")
import rich.console
import rich.table
import rich.text

import gpukeras
from gpukeras.models import _table
from tests.oracle import keras as oracle_keras

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore:.build... was called on layer:UserWarning")]


def chain(keras):
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(1000),
        ]
    )


def compiled(keras):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    model.layers[0].trainable = False
    model.compile("adam", "mse")
    model.fit(np.ones((2, 4), "float32"), np.ones((2, 2), "float32"), verbose=0)
    return model


def several_inputs(keras):
    left, right = keras.Input((4,), name="left"), keras.Input((None, 6), name="right_hand_side")
    shared = keras.layers.Dense(4, name="shared_by_two")
    sequence, last, _ = keras.layers.LSTM(4, return_sequences=True, return_state=True, name="memory")(right)
    pooled = keras.layers.GlobalAveragePooling1D()(sequence)
    joined = keras.layers.Concatenate()([shared(left), shared(last), pooled])
    outputs = keras.layers.Dense(2, name="classes")(joined), keras.layers.Dense(1, name="score")(joined)
    return keras.Model([left, right], outputs, name="several")


def long_names(keras):
    names = ["a_name_that_no_column_of_a_table_has_room_for_" * 2, "words that go on to a line of their own", "a" * 31]
    return keras.Sequential(
        [keras.Input((4,)), *(keras.layers.Dense(10**i, name=name) for i, name in enumerate(names))],
        name="a model whose name is longer than a line of the terminal " + "x" * 90,
    )


def nested(keras):
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="first_of_the_inner")], name="inner")
    middle = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dropout(0.5)], name="middle")
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Add()([middle(x), keras.layers.Dense(3)(x)]), name="outer")
    inner.trainable = False
    return model


def unbuilt(keras):
    return keras.Sequential([keras.layers.Dense(3), keras.layers.Dropout(0.5)])


def empty(keras):
    return keras.Sequential()


def subclassed(keras):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = keras.layers.Dense(3)
            self.memory = keras.layers.LSTM(5, return_sequences=True, return_state=True)
            self.late = keras.layers.Dense(7)

        def call(self, x):
            return self.memory(self.hidden(x))[1]

    model = Subclassed()
    model(np.ones((2, 3, 4), "float32"))
    return model


def wide_names(keras):
    names = [
        "層の名前はとても長い名前です",
        "日本語 の 名前 を 持つ 層",
        "naïve_e\u0301te\u0301",
        "🙂🙂🙂 🚀🚀🚀🚀🚀",
        "ｆｕｌｌ",
        "한국어 이름",
    ]
    return keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(3, name=name) for name in names)], name="模型")


def odd_names(keras):
    names = [
        "with[brackets]",
        "with 'quotes'",
        "[bold]",
        "two\nlines",
        "a  b   c    d     e",
        "back\\slash",
    ]
    return keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(3, name=name) for name in names)], name="[red]")


MODELS = [
    chain,
    compiled,
    several_inputs,
    long_names,
    nested,
    unbuilt,
    empty,
    subclassed,
    wide_names,
    odd_names,
]


@functools.cache
def pair(make):
    """The model in both libraries, made once for all tests."""
    models = []
    for keras in (gpukeras, oracle_keras):
        keras.utils.clear_session()
        models.append(make(keras))
    return models


def printed(model, **settings):
    text = []
    model.summary(print_fn=text.append, **settings)
    return "".join(text)


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("columns", [20, 80, 200])
def test_equals_keras_in_terminals_of_every_width(make, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    ours, theirs = pair(make)
    for length, show_trainable in [(24, False), (33, False), (50, True), (88, False), (150, True), (None, True)]:
        settings = {"line_length": length, "show_trainable": show_trainable, "expand_nested": length != 88}
        try:
            expected = printed(theirs, **settings)
        except ValueError:  # no room for the columns
            with pytest.raises(ValueError):
                printed(ours, **settings)
            continue
        assert printed(ours, **settings) == expected, settings


@pytest.mark.parametrize("positions", [[0.2, 0.4, 0.6], [0.1, 0.2, 1.0], [0.5, 0.99, 1.5]])
def test_equals_keras_at_other_positions(positions):
    ours, theirs = pair(chain)
    for length in (41, 60, 78):
        settings = {"line_length": length, "positions": positions}
        assert printed(ours, **settings) == printed(theirs, **settings)


def test_equals_keras_within_a_range_of_layers():
    ours, theirs = pair(chain)
    for layer_range in (["conv2d", "flatten"], ["flatten", "conv2d"], ["batch.*", "dense"]):
        assert printed(ours, layer_range=layer_range) == printed(theirs, layer_range=layer_range)


def test_equals_keras_where_the_output_has_no_box_characters(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
    for make in (chain, nested, empty):
        ours, theirs = pair(make)
        text = printed(ours, line_length=70)
        assert "+---" in text and text == printed(theirs, line_length=70)


def random_text(rng):
    parts = ["a", "bc", "(None,", "12", " ", "  ", "層", "🙂", "é", "e\u0301", "\n"]
    return "".join(rng.choice(parts, size=rng.integers(0, 13)))


def characters(line):
    return "".join(character for character, _ in line)


def printed_by_rich(drawable, width):
    console = rich.console.Console(file=io.StringIO(), width=width, color_system=None)
    console.print(drawable)
    return console.file.getvalue().split("\n")[:-1]


def test_table_equals_that_of_rich(rng):
    for _ in range(300):
        length, number = int(rng.integers(12, 71)), rng.integers(1, 5)
        alignments = list(rng.choice(["left", "center", "right"], size=number))
        widths = rng.integers(1, 16, size=number).tolist()
        header, *rows = [[random_text(rng) for _ in widths] for _ in range(rng.integers(1, 5))]
        lines = _table.draw(header, [[_table.styled(cell) for cell in row] for row in rows], alignments, widths, length)
        columns = [
            rich.table.Column(rich.text.Text(title), justify=alignment, width=width)
            for title, alignment, width in zip(header, alignments, widths, strict=True)
        ]
        theirs = rich.table.Table(*columns, width=length, show_lines=True)
        for row in rows:
            theirs.add_row(*map(rich.text.Text, row))
        assert list(map(characters, lines)) == printed_by_rich(theirs, 200)


def test_wrapped_text_equals_that_of_rich(rng):
    for _ in range(300):
        text, width = random_text(rng), int(rng.integers(2, 31))
        lines = _table.wrap(_table.styled(text), width, folds=True)
        assert [characters(_table._cut(line, width)) for line in lines] == printed_by_rich(rich.text.Text(text), width)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def styled(text):
    """Every visible character with the parameters of its style; whether spaces are bold is not seen."""
    characters, style = [], ""
    for sequence, character in re.findall(r"\x1b\[([\d;]*)m|([^\x1b])", text, flags=re.DOTALL):
        if not character:
            style = "" if sequence in ("", "0") else sequence
        elif character == "\n" or not character.isspace():
            characters.append((character, style))
    return characters


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("length", [46, 100])
def test_has_the_styles_of_keras_in_a_terminal(make, length, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("COLORTERM", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    texts = []
    for model in pair(make):
        monkeypatch.setattr(sys, "stdout", Terminal())
        model.summary(line_length=length, show_trainable=True, expand_nested=True)
        texts.append(sys.stdout.getvalue())
    ours, theirs = texts
    assert "\x1b[1m" in ours and "\x1b[38;5;34m" in ours
    assert styled(ours) == styled(theirs)
    assert re.sub(r"\x1b\[[\d;]*m", "", ours) == re.sub(r"\x1b\[[\d;]*m", "", theirs)
