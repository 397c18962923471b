"""Run the tests that need no server on every Python found, each in an environment of its own.

    python3 scripts/test_all.py [INTERPRETER...] -- VENV_ARGUMENTS... -- PYTEST_ARGUMENTS...
    python3 scripts/test_all.py --list

Without interpreters: every python3.8 to 3.12 on the PATH, and pyenv's.
`--list` names those besides the one that runs this.
"""

import glob
import os
import shutil
import subprocess
import sys

OLDEST, NEWEST = 8, 12


def main():
    interpreters, venv_arguments, tests = split(sys.argv[1:])
    only_list = interpreters == ["--list"]
    if only_list:
        interpreters = []
    found = {}
    for name in interpreters or candidates():
        version = minor_version(name)
        if version and OLDEST <= version <= NEWEST:
            found.setdefault(version, name)
        elif interpreters:
            sys.exit(f"{name} is not a Python from 3.{OLDEST} to 3.{NEWEST}")
    if not found:
        sys.exit(f"no Python from 3.{OLDEST} on was found")
    if only_list:
        found.pop(sys.version_info[1], None)
        print("\n".join(found[version] for version in sorted(found)))
        return
    failed = []
    for version in sorted(found):
        label = f"3.{version}"
        directory = ".venv-" + label
        print("--- Python " + label, flush=True)
        command = [found[version], "scripts/venv.py", directory] + venv_arguments
        python = os.path.join(directory, "bin", "python")
        pytest = [python, "-m", "pytest", "-q", "-m", "not services"] + tests
        if subprocess.call(command) or subprocess.call(pytest):
            failed.append(label)
    print("--- tested on Python " + ", ".join(f"3.{v}" for v in sorted(found)))
    if failed:
        sys.exit("failed on Python " + ", ".join(failed))


def split(words):
    parts = [[]]
    for word in words:
        if word == "--":
            parts.append([])
        else:
            parts[-1].append(word)
    return (parts + [[], []])[:3]


def candidates():
    for version in range(OLDEST, NEWEST + 1):
        name = f"python3.{version}"
        for directory in os.environ.get("PATH", "").split(os.pathsep):
            path = os.path.join(directory, name)
            if os.access(path, os.X_OK):
                yield path
        if shutil.which("pyenv"):
            root = subprocess.check_output(["pyenv", "root"], universal_newlines=True).strip()
            for path in sorted(glob.glob(f"{root}/versions/3.{version}.*/bin/python")):
                yield path


def minor_version(interpreter):
    """None where it does not run, which is what pyenv's shims do for a version not chosen."""
    try:
        answer = subprocess.check_output(
            [interpreter, "-c", "import sys; print(sys.version_info[:2])"],
            stderr=subprocess.DEVNULL,
            universal_newlines=True,
        )
        major, minor = answer.strip(" ()\n").split(",")
        return int(minor) if int(major) == 3 else None
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


if __name__ == "__main__":
    main()
