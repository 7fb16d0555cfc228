#!/usr/bin/env bash
# Stops the servers of the demo, or those that are named: demo/stop.sh 3
set -euo pipefail
exec python3 "$(dirname -- "${BASH_SOURCE[0]}")/commands.py" stop "$@"
