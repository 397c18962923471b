"""Run the tests that need no server on every installed Python, each in its own environment.

    python3 scripts/test_all.py [INTERPRETER...] -- VENV_ARGUMENTS... -- PYTEST_ARGUMENTS...
    python3 scripts/test_all.py --list

By default, the script uses every python3.8 to python3.12 on the PATH and in pyenv. `--list` prints
their paths, except that of the version that runs this script.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from glob import glob
from typing import Iterator

MINOR_VERSIONS = range(8, 13)


def main() -> None:
    """Parse the command line and run the tests, or list the interpreters."""
    interpreters, venv_arguments, pytest_arguments = split_arguments(sys.argv[1:])
    if interpreters == ["--list"]:
        pythons = first_by_version(find_interpreters())
        pythons.pop(sys.version_info.minor, None)
        print("\n".join(pythons[version] for version in sorted(pythons)))
        return
    for name in interpreters:
        if minor_version(name) not in MINOR_VERSIONS:
            sys.exit(f"{name} does not run, or is not a Python from 3.8 to 3.12")
    pythons = first_by_version(interpreters or find_interpreters())
    if not pythons:
        sys.exit("no Python from 3.8 to 3.12 was found")
    failed = []
    for version in sorted(pythons):
        print(f"--- Python 3.{version}", flush=True)
        if not run_tests(pythons[version], f".venv-3.{version}", venv_arguments, pytest_arguments):
            failed.append(f"3.{version}")
    print(f"--- tested on Python {', '.join(f'3.{version}' for version in sorted(pythons))}")
    if failed:
        sys.exit(f"failed on Python {', '.join(failed)}")


def run_tests(
    interpreter: str, directory: str, venv_arguments: list[str], pytest_arguments: list[str]
) -> bool:
    """Run the tests with an interpreter. Return True if they pass."""
    if subprocess.call([interpreter, "scripts/venv.py", directory, *venv_arguments]):
        return False
    python = os.path.join(directory, "bin", "python")
    command = [python, "-m", "pytest", "-q", "-m", "not services", *pytest_arguments]
    code = subprocess.call(command)
    if code < 0:
        print(f"pytest was killed by signal {-code}", flush=True)
    return code == 0


def split_arguments(arguments: list[str]) -> list[list[str]]:
    """Split the command line at each `--`, into three lists."""
    lists: list[list[str]] = [[]]
    for argument in arguments:
        if argument == "--":
            lists.append([])
        else:
            lists[-1].append(argument)
    return [*lists, [], []][:3]


def first_by_version(interpreters: list[str] | Iterator[str]) -> dict[int, str]:
    """Return the first interpreter of each minor version that the pack supports."""
    selected: dict[int, str] = {}
    for name in interpreters:
        version = minor_version(name)
        if version in MINOR_VERSIONS:
            selected.setdefault(version, name)
    return selected


def find_interpreters() -> Iterator[str]:
    """Yield the paths of possible interpreters, on the PATH and in pyenv's folder."""
    directories = os.environ.get("PATH", "").split(os.pathsep)
    root = ""
    if shutil.which("pyenv"):
        root = subprocess.check_output(["pyenv", "root"], text=True).strip()
    for version in MINOR_VERSIONS:
        for directory in directories:
            path = os.path.join(directory, f"python3.{version}")
            if os.access(path, os.X_OK):
                yield path
        if root:
            yield from sorted(glob(f"{root}/versions/3.{version}.*/bin/python"))


def minor_version(interpreter: str) -> int:
    """Return the minor version of a Python 3, or 0 if it does not run or is not Python 3.

    A pyenv shim fails for a version that is not selected.
    """
    try:
        output = subprocess.check_output(
            [interpreter, "-c", "import sys; print(*sys.version_info[:2])"],
            stderr=subprocess.DEVNULL,
            text=True,
        )
        major, minor = map(int, output.split())
    except (OSError, ValueError, subprocess.CalledProcessError):
        return 0
    return minor if major == 3 else 0


if __name__ == "__main__":
    main()
