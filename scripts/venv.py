"""Make a virtual environment, and bring it up to date when its requirements change.

    python3 scripts/venv.py .venv -r requirements.txt --no-deps-r more.txt

A second run with nothing changed takes a few hundredths of a second. A requirements file that is
not there is skipped, and said so.

Debian's python3 comes without ensurepip, so pip is looked for in this order, and nothing is ever
installed outside the environment: ensurepip; a pip wheel of the distribution's; the system's pip;
the distribution's own package with that wheel, unpacked into a temporary directory (`apt-get
download`, which needs no root).
"""

import argparse
import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

DISTRIBUTION_WHEELS = "/usr/share/python-wheels"
WHEEL_PACKAGES = ("python3-pip-whl", "python-pip-whl")
HOW_TO = (
    "no pip was found for {python}. Install it, for example on Debian or Ubuntu:\n"
    "    sudo apt-get install python3-venv\n"
    "or on Fedora or RHEL:\n"
    "    sudo dnf install python3-pip"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("-r", dest="files", action="append", default=[], metavar="FILE")
    parser.add_argument(
        "--no-deps-r",
        dest="bare_files",
        action="append",
        default=[],
        metavar="FILE",
        help="installed afterwards and without its dependencies",
    )
    args = parser.parse_args()
    if sys.version_info < (3, 8):
        sys.exit("Python 3.8 or later is needed; this is " + sys.version.split()[0])

    directory = os.path.abspath(args.directory)
    files = [name for name in args.files if present(name)]
    bare_files = [name for name in args.bare_files if present(name)]
    python = os.path.join(directory, "bin", "python")
    stamp = os.path.join(directory, ".installed")
    wanted = digest(directory, files, bare_files)
    if read(stamp) == wanted and runs(python):
        return

    say(f"setting up {args.directory} with Python {sys.version.split()[0]}")
    if version_of(python) != this_version() or not has_pip(python):
        create(directory, python)
    if os.path.exists(stamp):
        os.remove(stamp)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "-qq", "install"]
    if files:
        check(pip + requirements(files))
    if bare_files:
        check(pip + ["--no-deps"] + requirements(bare_files))
    with open(stamp, "w") as file:
        file.write(wanted)


def present(name):
    if os.path.exists(name):
        return True
    say(f"no {name}, skipped")
    return False


def requirements(files):
    return [word for name in files for word in ("-r", name)]


def digest(directory, files, bare_files):
    """What the environment was made from: where it lies, the Python, the requirements."""
    total = hashlib.sha256()
    total.update("\0".join([directory, sys.version, ""]).encode())
    for name in files + ["--no-deps"] + bare_files:
        total.update((read(name) or name).encode())
    return total.hexdigest()


def create(directory, python):
    """An environment with a pip in it, whatever stood there before."""
    shutil.rmtree(directory, ignore_errors=True)
    try:
        import ensurepip  # noqa: F401

        check([sys.executable, "-m", "venv", directory])
        return
    except ImportError:
        check([sys.executable, "-m", "venv", "--without-pip", directory])
    temporary = tempfile.mkdtemp(prefix="pip-wheel-")
    try:
        found = (
            install_pip_from(DISTRIBUTION_WHEELS, python)
            or install_pip_with_system_pip(python)
            or install_pip_from(download_wheels(temporary), python)
        )
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if not found:
        shutil.rmtree(directory, ignore_errors=True)
        sys.exit(HOW_TO.format(python=sys.executable))


def install_pip_from(wheels, python):
    """A wheel can be run as it is; older distributions keep pip's parts in wheels of their own."""
    found = glob.glob(os.path.join(wheels, "*.whl")) if wheels else []
    if not [name for name in found if os.path.basename(name).startswith("pip-")]:
        return False
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(found))
    command = [python, "-m", "pip", "--disable-pip-version-check", "-qq", "install"]
    for source in (["--upgrade", "pip"], ["--no-index", "--find-links", wheels, "pip"]):
        words = command + ["--ignore-installed"] + source
        if subprocess.call(words, env=environment) == 0 and has_pip(python):
            return True
    return False


def install_pip_with_system_pip(python):
    place = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        universal_newlines=True,
    ).strip()
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", "install"]
    if not succeeds([sys.executable, "-m", "pip", "--version"]):
        return False
    subprocess.call(command + ["--target", place, "--ignore-installed", "pip"])
    return has_pip(python)


def download_wheels(temporary):
    """The distribution's package with pip's wheel, unpacked here and installed nowhere."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None
    say("this Python has neither ensurepip nor pip: taking pip's wheel from the distribution")
    for own_lists in (False, True):
        options = []
        if own_lists:  # an image without package lists: fetch them, into our own directory
            state, cache = os.path.join(temporary, "state"), os.path.join(temporary, "cache")
            os.makedirs(os.path.join(state, "lists", "partial"))
            os.makedirs(os.path.join(cache, "archives", "partial"))
            options = ["-o", "Dir::State=" + state, "-o", "Dir::Cache=" + cache]
            options += ["-o", "Dir::State::status=/var/lib/dpkg/status"]
            subprocess.call(["apt-get", "-qq"] + options + ["update"])
        for package in WHEEL_PACKAGES:
            command = ["apt-get", "-qq"] + options + ["download", package]
            if succeeds(command, cwd=temporary):
                for name in glob.glob(os.path.join(temporary, "*.deb")):
                    check(["dpkg-deb", "-x", name, temporary])
                return temporary + DISTRIBUTION_WHEELS
    return None


def runs(python):
    return version_of(python) is not None


def version_of(python):
    try:
        return subprocess.check_output(
            [python, "-c", "import sys; print(sys.version)"],
            stderr=subprocess.DEVNULL,
            universal_newlines=True,
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def this_version():
    return sys.version.strip()


def has_pip(python):
    return succeeds([python, "-c", "import pip"])


def succeeds(command, cwd=None):
    try:
        return (
            subprocess.call(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            == 0
        )
    except OSError:
        return False


def check(command):
    status = subprocess.call(command)
    if status:
        sys.exit("failed ({}): {}".format(status, " ".join(command)))


def read(name):
    try:
        with open(name) as file:
            return file.read()
    except OSError:
        return None


def say(text):
    print("poundcake: " + text, flush=True)


if __name__ == "__main__":
    main()
