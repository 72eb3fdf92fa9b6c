"""Two commands, from a bare Python 3.11 or newer with pip: `python3 dev.py demo` and `python3 dev.py test`.

The first use makes `.venv` beside this file and installs jaxloss into it, editable. Arguments after the command are
passed on: `python3 dev.py test -k huber`.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
COMMANDS = {"demo": ("demo", ["-m", "jaxloss"]), "test": ("test", ["-m", "pytest"])}


def install(extra: str) -> None:
    """Install the project with this extra, unless that was done for this very pyproject.toml and Python."""
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + sys.version.encode()).hexdigest()
    stamp = VENV / f"installed-{extra}"
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"Installing jaxloss[{extra}] into {VENV.name} (once) ...", file=sys.stderr, flush=True)
    if not PYTHON.exists():
        venv.create(VENV, with_pip=True)
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "--editable", f"{ROOT}[{extra}]"], check=True)
    stamp.write_text(wanted)


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036  somebody may start this file with any Python
        print(f"jaxloss needs Python 3.11 or newer, this is {sys.version.split()[0]}.", file=sys.stderr)
        return 2
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    extra, command = COMMANDS[arguments[0]]
    install(extra)
    return subprocess.run([str(PYTHON), *command, *arguments[1:]], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
