"""Runs a session in a terminal and draws what the terminal shows: session.py SESSION PICTURE.

Of a session's lines, those that begin with "$ " are shown and run, those with "# " shown alone, and
indented ones run alone: what happens between two commands of a person.
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

COLUMNS = 100
# Dark whatever is around it, as terminals are: readable on light and on dark pages.
THEME = TerminalTheme(
    (13, 17, 23),
    (230, 237, 243),
    [(72, 79, 88), (255, 123, 114), (63, 185, 80), (210, 153, 34),
     (88, 166, 255), (188, 140, 255), (57, 197, 207), (177, 186, 196)],
    [(110, 118, 129), (255, 161, 152), (86, 211, 100), (227, 179, 65),
     (121, 192, 255), (210, 168, 255), (86, 212, 221), (255, 255, 255)],
)
PAGE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>A session of vmdisk in a terminal</title>
<style>
text {{ font: {char_height}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre }}
{styles}
</style>
<defs>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})">{backgrounds}{matrix}</g>
</svg>
"""


def shown(command: str) -> str:
    """What a terminal gets to show while the command runs, which must end well."""
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("4H", 40, COLUMNS, 0, 0))
    child = subprocess.Popen(
        command, shell=True, stdin=subprocess.DEVNULL, stdout=inside, stderr=inside,
        env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
    )
    os.close(inside)
    output = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # How Linux says that nobody is inside any more.
            break
        if not piece:
            break
        output += piece
    os.close(terminal)
    text = output.decode().replace("\r\n", "\n")
    if child.wait() != 0:
        sys.exit(f"{command}: ended with {child.returncode}\n{text}")
    if re.search(r"[\x00-\x09\x0b-\x1f]", re.sub(r"\x1b\[\d+m", "", text)):
        sys.exit(f"{command}: moves the cursor, which cannot be drawn: {text!r}")
    return text


def joined(text: str) -> str:
    """The same, with neighbours of one colour in one piece."""
    count = 1
    while count:
        text, count = re.subn(r"(\x1b\[\d+m)([^\x1b]*)\x1b\[0m\1", r"\1\2", text)
    return text


def main() -> None:
    session, picture = sys.argv[1:]
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), color_system="truecolor")
    with open(session) as lines:
        for line in lines.read().splitlines():
            if line.startswith("$ "):
                console.print(Text.assemble(("$ ", "bright_black"), (line[2:], "bold")))
                console.print(Text.from_ansi(joined(shown(line[2:])).rstrip("\n")))
            elif line.startswith("# "):
                console.print(Text(line, "bright_black"))
            else:
                shown(line)
    svg = console.export_svg(
        title="", theme=THEME, code_format=PAGE, font_aspect_ratio=0.6, unique_id="t",
    )
    # Where the reader's font is narrower or wider, columns stay in line all the same.
    svg = svg.replace(" textLength=", ' lengthAdjust="spacingAndGlyphs" textLength=')
    with open(picture, "w") as file:
        file.write(svg)


main()
