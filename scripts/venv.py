"""Create a virtual environment, or update it if its requirements have changed.

    python3 scripts/venv.py .venv -r requirements.txt --no-deps-r more.txt

If nothing has changed, the script takes a few hundredths of a second.

Debian's python3 comes without ensurepip, so the script looks for pip in this order: ensurepip; a
pip wheel from the distribution; the system's pip; the distribution's package with that wheel,
unpacked into a temporary directory (`apt-get download` needs no root). It installs nothing outside
the environment.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from glob import glob
from importlib.util import find_spec
from typing import NoReturn, Sequence

DISTRIBUTION_WHEELS = "/usr/share/python-wheels"
WHEEL_PACKAGES = ("python3-pip-whl", "python-pip-whl")
PIP = ("-m", "pip", "--disable-pip-version-check", "-qq", "install")
NO_PIP = (
    "no pip was found for {python}. Install it, for example on Debian or Ubuntu:\n"
    "    sudo apt-get install python3-venv\n"
    "or on Fedora or RHEL:\n"
    "    sudo dnf install python3-pip"
)


def main() -> None:
    """Create or update the environment that the command line specifies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("-r", dest="files", action="append", default=[], metavar="FILE")
    parser.add_argument(
        "--no-deps-r",
        dest="no_deps_files",
        action="append",
        default=[],
        metavar="FILE",
        help="installed last and without its dependencies",
    )
    args = parser.parse_args()
    # This file must also run on older Pythons, so that it can report that they are too old.
    if sys.version_info < (3, 8):  # noqa: UP036
        fail(f"Python 3.8 or later is needed; this is {sys.version.split()[0]}")
    update(os.path.abspath(args.directory), args.files, args.no_deps_files)


def update(directory: str, files: list[str], no_deps_files: list[str]) -> None:
    """Create or update the environment, unless its stamp shows that it is up to date."""
    python = os.path.join(directory, "bin", "python")
    stamp = os.path.join(directory, ".installed")
    current_digest = compute_digest(directory, files, no_deps_files)
    if os.path.exists(stamp) and read_text(stamp) == current_digest and version_of(python):
        return
    print_status(f"setting up {os.path.relpath(directory)} with Python {sys.version.split()[0]}")
    if version_of(python) != sys.version.strip() or not has_pip(python):
        create(directory, python)
    if os.path.exists(stamp):
        os.remove(stamp)
    if files:
        run([python, *PIP, *requirements(files)])
    if no_deps_files:
        run([python, *PIP, "--no-deps", *requirements(no_deps_files)])
    with open(stamp, "w") as file:
        file.write(current_digest)


def requirements(files: Sequence[str]) -> list[str]:
    """Return pip's options for requirements files."""
    return [option for name in files for option in ("-r", name)]


def compute_digest(directory: str, files: list[str], no_deps_files: list[str]) -> str:
    """Return a digest of an environment's path, its Python version and its requirements."""
    hasher = hashlib.sha256(f"{directory}\n{sys.version}\n".encode())
    for name in files:
        hasher.update(read_text(name).encode())
    hasher.update(b"--no-deps")
    for name in no_deps_files:
        hasher.update(read_text(name).encode())
    return hasher.hexdigest()


def create(directory: str, python: str) -> None:
    """Create an environment with pip. An existing one is deleted first."""
    shutil.rmtree(directory, ignore_errors=True)
    if find_spec("ensurepip"):
        run([sys.executable, "-m", "venv", directory])
        return
    run([sys.executable, "-m", "venv", "--without-pip", directory])
    temporary = tempfile.mkdtemp(prefix="pip-wheel-")
    try:
        is_installed = (
            install_pip_from(DISTRIBUTION_WHEELS, python)
            or install_pip_with_system_pip(python)
            or install_pip_from(download_wheels(temporary), python)
        )
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if not is_installed:
        shutil.rmtree(directory, ignore_errors=True)
        fail(NO_PIP.format(python=sys.executable))


def install_pip_from(wheels: str | None, python: str) -> bool:
    """Install pip with a pip wheel from a folder. Return True if that worked.

    A wheel runs without being installed. Older distributions keep parts of pip in other wheels.
    """
    wheel_files = glob(os.path.join(wheels, "*.whl")) if wheels else []
    if not wheels or not any(os.path.basename(name).startswith("pip-") for name in wheel_files):
        return False
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(wheel_files))
    for source in (["--upgrade", "pip"], ["--no-index", "--find-links", wheels, "pip"]):
        command = [python, *PIP, "--ignore-installed", *source]
        if subprocess.call(command, env=environment) == 0 and has_pip(python):
            return True
    return False


def install_pip_with_system_pip(python: str) -> bool:
    """Install pip with the pip of the Python that runs this script. Return True if that worked."""
    if not succeeds([sys.executable, "-m", "pip", "--version"]):
        return False
    target = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    subprocess.call([sys.executable, *PIP, "--target", target, "--ignore-installed", "pip"])
    return has_pip(python)


def download_wheels(temporary: str) -> str | None:
    """Download the distribution's package with pip's wheel. Return the folder of the wheel."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None
    print_status(
        "neither ensurepip nor pip is installed: downloading pip's wheel from the distribution"
    )
    return fetch_package([], temporary) or fetch_package(fetch_package_lists(temporary), temporary)


def fetch_package_lists(temporary: str) -> list[str]:
    """Download package lists into the temporary directory, for an image that contains none.

    Returns:
        The options that make apt-get use them.
    """
    state, cache = os.path.join(temporary, "state"), os.path.join(temporary, "cache")
    os.makedirs(os.path.join(state, "lists", "partial"))
    os.makedirs(os.path.join(cache, "archives", "partial"))
    options = ["-o", f"Dir::State={state}", "-o", f"Dir::Cache={cache}"]
    options += ["-o", "Dir::State::status=/var/lib/dpkg/status"]
    subprocess.call(["apt-get", "-qq", *options, "update"])
    return options


def fetch_package(options: list[str], temporary: str) -> str | None:
    """Download and unpack the package with pip's wheel. Return the folder of the wheel."""
    for package in WHEEL_PACKAGES:
        if succeeds(["apt-get", "-qq", *options, "download", package], cwd=temporary):
            for name in glob(os.path.join(temporary, "*.deb")):
                run(["dpkg-deb", "-x", name, temporary])
            return temporary + DISTRIBUTION_WHEELS
    return None


def version_of(python: str) -> str | None:
    """Return the version of an interpreter, or None if it does not run."""
    try:
        return subprocess.check_output(
            [python, "-c", "import sys; print(sys.version)"], stderr=subprocess.DEVNULL, text=True
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def has_pip(python: str) -> bool:
    """Return True if an interpreter can import pip."""
    return succeeds([python, "-c", "import pip"])


def succeeds(command: list[str], cwd: str | None = None) -> bool:
    """Run a command silently. Return True if it ran and exited with 0."""
    silent = subprocess.DEVNULL
    try:
        return subprocess.call(command, cwd=cwd, stdout=silent, stderr=silent) == 0
    except OSError:
        return False


def run(command: list[str]) -> None:
    """Run a command, and exit if it fails."""
    code = subprocess.call(command)
    if code:
        fail(f"failed ({code}): {' '.join(command)}")


def read_text(name: str) -> str:
    """Return the text of a file."""
    with open(name) as file:
        return file.read()


def print_status(text: str) -> None:
    """Print a line with the prefix "poundcake: "."""
    print(f"poundcake: {text}", flush=True)


def fail(text: str) -> NoReturn:
    """Exit with 1 and a message."""
    sys.exit(f"poundcake: {text}")


if __name__ == "__main__":
    main()
