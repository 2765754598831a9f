#!/usr/bin/env bash
# Make a virtual environment for one peer, apart from q3edge's: make_env.sh PEER DIR
set -euo pipefail
peer=${1:?usage: make_env.sh PEER DIR} dir=${2:?usage: make_env.sh PEER DIR}
here=$(cd "$(dirname "$0")" && pwd)
[ -f "$here/$peer.txt" ] || { echo "no such peer: $peer; there are: $(cd "$here" && ls ./*.txt)"; exit 2; }
python3 -m venv "$dir"
# torch first: a range that is already satisfied keeps the CPU build where one is offered.
grep '^torch' "$here/$peer.txt" | xargs -r "$dir/bin/pip" install -q
"$dir/bin/pip" install -q -r "$here/$peer.txt"
