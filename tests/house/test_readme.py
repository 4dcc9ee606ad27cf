"""What README.md shows can be run."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def blocks(language, text):
    """Line number and text of each fenced block of a language."""
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, match.start(1)), match[1]


def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a block may write a file
    found = list(blocks("python", README.read_text(encoding="utf-8")))
    assert found
    namespace = {"__name__": "__main__"}  # one for all: a later block goes on from an earlier one
    for line, block in found:
        code = "\n" * line + block  # so that a traceback names the line of README.md
        exec(compile(code, str(README), "exec"), namespace)


def test_marked_commands_install_run_and_test():
    text = README.read_text(encoding="utf-8")
    marked = re.findall(r"^<!-- ci -->\n```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    commands = [line for block in marked for line in block.splitlines() if line]
    assert len(commands) == 2
    assert "pip install" in commands[0] and "examples/digits.py" in commands[0]
    assert commands[1].split(" && ")[-1].startswith("python -m pytest")
