"""The printed summary: what it looks like, with styles and without, on outputs of every kind."""

import io
import sys

import pytest

import gpukeras as keras
from gpukeras import layers


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a_long_name_of_an_inner_layer")], name="層")
    return keras.Sequential([keras.Input((4,)), inner, layers.Dropout(0.5, name="drop")], name="outer")


def printed(model, monkeypatch, output, **settings):
    monkeypatch.setattr(sys, "stdout", output)
    model.summary(line_length=60, expand_nested=True, **settings)
    output.seek(0)
    return output.read()


def encoded(encoding):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


Notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})

PLAIN = """\
Model: "outer"
┏━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━┓
┃ Layer (type)             ┃ Output Shape      ┃   Param # ┃
┡━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━┩
│ 層 (Sequential)          │ (None, 3)         │        15 │
├──────────────────────────┼───────────────────┼───────────┤
│    └                     │ (None, 3)         │        15 │
│ a_long_name_of_an_inner… │                   │           │
│ (Dense)                  │                   │           │
├──────────────────────────┼───────────────────┼───────────┤
│ drop (Dropout)           │ (None, 3)         │         0 │
└──────────────────────────┴───────────────────┴───────────┘
 Total params: 15 (60.00 B)
 Trainable params: 15 (60.00 B)
 Non-trainable params: 0 (0.00 B)
"""

ASCII = """\
Model: "outer"
+----------------------------------------------------------+
| Layer (type)             | Output Shape      |   Param # |
|--------------------------+-------------------+-----------|
| ? (Sequential)          | (None, 3)         |        15 |
|--------------------------+-------------------+-----------|
|    +                     | (None, 3)         |        15 |
| a_long_name_of_an_inner? |                   |           |
| (Dense)                  |                   |           |
|--------------------------+-------------------+-----------|
| drop (Dropout)           | (None, 3)         |         0 |
+----------------------------------------------------------+
 Total params: 15 (60.00 B)
 Trainable params: 15 (60.00 B)
 Non-trainable params: 0 (0.00 B)
"""


def test_text(model, monkeypatch):
    assert printed(model, monkeypatch, encoded("utf-8")) == PLAIN
    assert printed(model, monkeypatch, io.StringIO()) == PLAIN


def test_rich_is_not_needed(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    assert printed(model, monkeypatch, io.StringIO()) == PLAIN


def test_print_fn_gets_one_string_without_styles(model, monkeypatch):
    texts = []
    assert printed(model, monkeypatch, Terminal(), print_fn=texts.append) == ""
    assert texts == [PLAIN]


def test_encodings_without_box_characters(model, monkeypatch):
    assert printed(model, monkeypatch, encoded("ascii")) == ASCII
    assert printed(model, monkeypatch, encoded("cp1252")) == ASCII.replace("inner?", "inner…")
    texts = []
    printed(model, monkeypatch, encoded("ascii"), print_fn=texts.append)
    assert texts == [ASCII.replace("? (Seq", "層 (Seq").replace("inner?", "inner…")]


def test_program_without_a_console(model, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    model.summary()


@pytest.mark.parametrize("output", [Terminal, Notebook])
def test_styles_where_they_are_shown(model, monkeypatch, output):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = printed(model, monkeypatch, output(), show_trainable=True)
    for part in (
        '\x1b[1mModel: "outer"\x1b[0m\n',
        "\x1b[1mOutput Shape\x1b[0m",
        "(\x1b[38;5;33mDropout\x1b[0m)",
        "(\x1b[38;5;45mNone\x1b[0m, \x1b[38;5;34m3\x1b[0m)",
        "\x1b[1;38;5;34mY\x1b[0m",
        "\x1b[1m Total params: \x1b[0m\x1b[38;5;34m15\x1b[0m (60.00 B)\n",
    ):
        assert part in text, part


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_styles_can_be_switched_off(model, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert printed(model, monkeypatch, Terminal()) == PLAIN


@pytest.mark.parametrize(
    ("name", "shown", "columns"),
    [
        ("tab\there", "tab     here", 12),
        ("bell\a\r\b", "bell", 4),
        ("\x1b[31mred", "[31mred", 7),
        ("ｗｉｄｅ 層", "ｗｉｄｅ 層", 11),
        ("e\u0301te\u0301", "e\u0301te\u0301", 3),  # accents apart from their letters
        ("\u1112\u1161\u11ab", "\u1112\u1161\u11ab", 2),  # a Korean syllable in three parts
        ("👩\u200d🔬 ❤\ufe0f 👍🏽", "👩\u200d🔬 ❤\ufe0f 👍🏽", 8),
    ],
)
def test_names_of_all_scripts_keep_the_table_straight(monkeypatch, name, shown, columns):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name=name)])
    text = printed(model, monkeypatch, io.StringIO())
    assert f"│ {shown} (Dense){' ' * (16 - columns)} │ (None, 3) " in text


def test_lines_end_at_the_edge_of_the_screen(model, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = printed(model, monkeypatch, io.StringIO())
    assert max(map(len, text.splitlines())) == 40
    assert [line[:40] for line in PLAIN.splitlines() if line[0] in "┏┃├"] == [
        line for line in text.splitlines() if line[0] in "┏┃├"
    ]


def test_too_short_a_line_is_refused(model):
    with pytest.raises(ValueError, match="too short"):
        model.summary(line_length=10)
