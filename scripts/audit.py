"""Whether a version that the pack's requirements lead to is known to be vulnerable.

    .venv-lint/bin/python scripts/audit.py

pip-audit asks the OSV database (https://osv.dev), in an environment of its own. Ends with 1 where a
vulnerability is known, with 3 where it could not be asked; then it says why.
"""

import json
import os
import subprocess
import sys
import urllib.request

SERVICE = "https://api.osv.dev/v1/vulns/OSV-2020-111"
ENVIRONMENT = ".venv-audit"
COULD_NOT = 3


def main():
    try:
        urllib.request.urlopen(SERVICE, timeout=5).close()
    except OSError as error:
        could_not("{} does not answer ({})".format(SERVICE.split("/v1")[0], error))
    made = run(sys.executable, "scripts/venv.py", ENVIRONMENT, "-r", "requirements-audit.txt")
    if made.returncode:
        could_not("pip-audit cannot be installed: " + last_line(made))
    audit = run(
        os.path.join(ENVIRONMENT, "bin", "python"),
        *"-m pip_audit -r requirements.txt -s osv -f json --progress-spinner off".split(),
    )
    try:
        dependencies = json.loads(audit.stdout)["dependencies"]
    except ValueError:
        could_not(last_line(audit))
    unknown = [d["name"] for d in dependencies if "skip_reason" in d]
    if not dependencies or unknown:
        could_not("not found: " + ", ".join(unknown))
    found = [(d["name"], d["version"], v["id"]) for d in dependencies for v in d["vulns"]]
    for name, version, id_ in found:
        print(f"{name} {version}: {id_}")
    print(f"{len(dependencies)} packages, {len(found)} known vulnerabilities")
    sys.exit(1 if found else 0)


def run(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def last_line(ended):
    return (ended.stderr.strip().splitlines() or ["no output"])[-1]


def could_not(reason):
    print(reason)
    sys.exit(COULD_NOT)


if __name__ == "__main__":
    main()
