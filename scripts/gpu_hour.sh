#!/usr/bin/env bash
# Checks and times everything on a lent GPU: see scripts/README.md.
#
#     scripts/gpu_hour.sh [--call 1|2|3|4 ...] [--parts FOLDER] [--output FOLDER] [--dry-run]
#     scripts/gpu_hour.sh --gather FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
parts=gpu-parts
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
        --parts) parts=$2; shift 2 ;;
        --gather) exec "${PYTHON:-.venv/bin/python}" scripts/gpu_parts.py "$2" ;;
        *) arguments+=("$1"); shift ;;
    esac
done
python=${PYTHON:-python3}
# Wheels only where they are needed: a machine with the package installed, such as a developer's, is used as it is.
if [ -d "$parts/wheels" ] && ! "$python" -c "import msformer_deploy" 2> /dev/null; then
    # It sees the torch, the ONNX Runtime and the TensorRT of the system; nothing of the system is replaced.
    "$python" -m venv --system-site-packages build/gpu-hour-venv
    python=build/gpu-hour-venv/bin/python
    "$python" -m pip install --quiet --no-index --no-deps "$parts"/wheels/*.whl
    "$python" -m pip install --quiet --no-index --no-deps --no-build-isolation --editable .
fi
exec "$python" scripts/gpu_steps.py --parts "$parts" ${arguments[@]+"${arguments[@]}"}
