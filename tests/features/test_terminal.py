"""What a name contains never acts on the terminal."""

import ast
import inspect
import io
import os

import pytest
from rezsl_features import cli
from rezsl_features.terminal import printable, say


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("caf\u00e9 \u732b", "caf\u00e9 \u732b"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("\x9b2J", r"\x9b2J"),  # one character starts a sequence, too
        ("gnp\u202e.txt", r"gnp\u202e.txt"),  # shown from right to left
        ("caf\udce9.jpg", r"caf\udce9.jpg"),
    ],
)
def test_what_is_printed(capsys, name, shown):
    assert printable(name) == shown
    say(name)
    assert capsys.readouterr().out == shown + "\n"


def test_a_terminal_that_lacks_a_letter():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("caf\u00e9", stream)
    stream.flush()
    assert stream.buffer.getvalue() == b"caf\\xe9\n"


def test_a_reader_that_goes_stops_nothing():
    """As in `rezsl-features inspect x.h5 | head`."""
    read, write = os.pipe()
    with open(write, "w") as stream:
        os.close(read)
        say("one", stream)
        say("two", stream)


def test_the_command_prints_in_no_other_way():
    calls = [
        node.func.id
        for node in ast.walk(ast.parse(inspect.getsource(cli)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    assert "say" in calls and "print" not in calls
