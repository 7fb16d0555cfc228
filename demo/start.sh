#!/usr/bin/env bash
# Starts the three servers of the demo, or those that are named: demo/start.sh 2 3
# On a desktop it opens a page in the browser, unless it is told not to: demo/start.sh --no-open
# demo/README.md tells what they are, and which variables change their ports, their folder and their Python.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

python=${DEMO_PYTHON:-$root/.venv/bin/python}

# As README.md does it, unless it has been done.
if [[ -z ${DEMO_PYTHON:-} && ! -x $root/.venv/bin/synapse_like ]]; then
    echo "Installing into $root/.venv, which is done once and takes a minute ..."
    if ! (cd -- "$root" && python3 -m venv .venv && .venv/bin/pip install -q --disable-pip-version-check .); then
        echo 'The installation failed; what stands above says why. It needs Python 3.11 or newer with its venv module' >&2
        echo '(on Debian and Ubuntu: apt install python3-venv), and the Python package index.' >&2
        exit 1
    fi
fi
exec "$python" "$root/demo/commands.py" start "$@"
