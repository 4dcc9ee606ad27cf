"""Tables in box-drawing characters: cells that wrap, columns of a given width, styles where the screen shows them.

A text is a list of pairs of a character and its style; a style is the parameter of an SGR sequence ("1" is bold),
"" for plain. Text wraps and is cut as by rich 15, with which Keras draws its tables.
"""

import contextlib
import itertools
import math
import os
import re
import shutil
import sys
import unicodedata

from gpukeras.callbacks import logs

BOLD = "1"

# What the box becomes where the output's encoding lacks it: rich's choice, which cannot tell corners from crossings.
_ASCII = str.maketrans("┏━┳┓┃┡╇┩│├─┼┤└┴┘", "+--+||+|||-+|+-+")

# Vowels and final consonants of a Hangul syllable, skin tones: drawn with the character before.
_ATTACHED = re.compile("[\u1160-\u11ff\U0001f3fb-\U0001f3ff]")


def styled(*pieces):
    """A text from strings, which are plain, and pairs of string and style."""
    pairs = [(piece, "") if isinstance(piece, str) else piece for piece in pieces]
    text = [(character, style) for string, style in pairs for character in string.expandtabs()]
    # Control characters would move the cursor or change the terminal's settings.
    return [pair for pair in text if pair[0] == "\n" or unicodedata.category(pair[0]) != "Cc"]


def draw(header, rows, alignments, widths, length):
    """The lines of a table: a heavy box around the header's strings, light lines between rows of texts."""
    widths = _fit(widths, length)

    def rule(left, line, crossing, right):
        return styled(left + crossing.join(line * width for width in widths) + right)

    def row(cells, bar, is_header=False):
        columns = [_fill(*column) for column in zip(cells, widths, alignments, strict=True)]
        height = max(1, *map(len, columns))
        for column, width in zip(columns, widths, strict=True):
            blank = [styled(" " * width)] * (height - len(column))
            column[:] = [*blank, *column] if is_header else [*column, *blank]
        for parts in zip(*columns, strict=True):
            line = styled(bar)
            for part in parts:
                line += [*part, *styled(bar)]
            yield line

    yield rule(*"┏━┳┓")
    yield from row([styled((title, BOLD)) for title in header], "┃", is_header=True)
    yield rule(*"┡━╇┩")
    for i, cells in enumerate(rows):
        if i:
            yield rule(*"├─┼┤")
        yield from row(cells, "│")
    yield rule(*"└─┴┘")


def _fit(widths, length):
    """The columns' widths with a space on either side, cut or stretched until they fill `length` with the bars."""
    room = length - len(widths) - 1
    widths = [min(width + 2, room) for width in widths]
    missing = room - sum(widths)
    for i, width in enumerate(widths):
        if missing < 0:
            share = -min(width, round(-missing / (len(widths) - i)))
        else:
            share = math.ceil(missing * width / sum(widths[i:]))
        widths[i] += share
        missing -= share
    return widths


def _fill(cell, width, alignment):
    """The lines of a cell, each exactly `width` columns."""
    room = width - 2
    lines = []
    for line in wrap(cell, room) if room > 0 else ():
        while alignment != "left" and line and line[-1][0].isspace():
            line.pop()
        if sum(_columns(line)) > room:  # a word longer than the cell
            start = _cut(line, room - 1)
            line = [*start, ("…", line[min(len(start), len(line) - 1)][1])]
        spaces = room - sum(_columns(line))
        before = {"left": 0, "center": spaces // 2, "right": spaces}[alignment]
        lines.append([*styled(" " * (1 + before)), *line, *styled(" " * (spaces - before + 1))])
    return lines


def wrap(text, width, folds=False):
    """The lines of a text, begun anew where a word has no room; `folds` also breaks words longer than a line."""
    lines = []
    ends = [i for i, (character, _) in enumerate(text) if character == "\n"]
    for start, end in zip([0, *(i + 1 for i in ends)], [*ends, len(text)], strict=True):
        paragraph = text[start:end]
        for first, last in itertools.pairwise([0, *_breaks(paragraph, width, folds), len(paragraph)]):
            line = paragraph[first:last]
            while len(line) > width and line[-1][0].isspace():  # characters, not columns: rich counts so here
                line.pop()
            lines.append(line)
    return lines


def _breaks(text, width, folds):
    used = 0
    for word in re.finditer(r"\s*\S+\s*", "".join(character for character, _ in text)):
        columns = _columns(text[word.start() : word.end()])
        needed = sum(columns[: len(word[0].rstrip())])
        if needed > width - used:
            if word.start():
                yield word.start()
            used = 0
        for i, size in enumerate(columns, word.start()):
            if folds and needed > width and used + size > width:
                yield i
                used = 0
            used += size


def _columns(text):
    """How many columns of the screen each character takes."""
    string = "".join(character for character, _ in text)
    return [_size(string[i - 1 : i], character, string[i + 1 : i + 2]) for i, character in enumerate(string)]


def _size(before, character, after):
    kind = unicodedata.category(character)
    if before == "\u200d" or kind == "Cf" or kind[0] == "M" or _ATTACHED.match(character):
        return 0  # joined to the character before, unseen, combining
    if after == "\ufe0f":  # says: as an emoji
        return 2
    return 2 if unicodedata.east_asian_width(character) in ("F", "W") else 1


def _cut(text, width):
    """The start of a text that fits into `width`; a space stands for the half of a wide character."""
    used = 0
    for i, size in enumerate(_columns(text)):
        if used + size > width:
            return text[:i] + styled(" " * (width - used))
        used += size
    return text


def screen_width():
    """The columns of the screen; as for rich, 115 in a notebook and 80 where there is no terminal."""
    if _is_notebook():
        return 115
    columns = shutil.get_terminal_size(fallback=(0, 0)).columns
    for stream in (0, 2):  # where the output goes to a file, the terminal may still read from here or get the errors
        if not columns:
            with contextlib.suppress(OSError):
                columns = os.get_terminal_size(stream).columns
    return columns or 80


def write(lines, print_fn=None):
    """Print the lines, cut at the screen's edge, or hand them to `print_fn` as one string without styles."""
    has_styles = print_fn is None and _shows_styles()
    width, text = screen_width(), ""
    for line in lines:
        for style, pairs in itertools.groupby(_cut(line, width), lambda pair: pair[1]):
            part = "".join(character for character, _ in pairs)
            text += f"\x1b[{style}m{part}\x1b[0m" if style and has_styles else part
        text += "\n"
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if not encoding.lower().startswith("utf"):
        text = text.translate(_ASCII)
    if print_fn is not None:
        print_fn(text)
    elif sys.stdout is not None:  # a program without a console has none
        logs.print_line(text[:-1])


def _shows_styles():
    if os.environ.get("NO_COLOR"):  # https://no-color.org
        return False
    is_terminal = hasattr(sys.stdout, "isatty") and sys.stdout.isatty()
    return _is_notebook() or (is_terminal and os.environ.get("TERM") not in ("dumb", "unknown"))


def _is_notebook():
    return type(sys.stdout).__module__.partition(".")[0] == "ipykernel"
