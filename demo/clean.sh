#!/usr/bin/env bash
# Stops the servers of the demo and removes all that they have.
set -euo pipefail
exec python3 "$(dirname -- "${BASH_SOURCE[0]}")/commands.py" clean
