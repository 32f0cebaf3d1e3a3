#!/usr/bin/env bash
# The comparison of networks, every network and seed at a time: for a GPU, or for many cores.
#   EMCOPILOT_DATA=... bash benchmarks/compare_networks.sh runs/networks cpu
set -euo pipefail
cd "$(dirname "$0")/.."
# A borrowed machine has the libraries, but not this package.
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
python=${PYTHON:-.venv/bin/python} out=$1 scale=${2:-cpu}
mkdir -p "$out"
runs=()
for seed in 0 1 2; do
  for network in npssegnet unetplusplus unet deeplabv3plus; do
    OMP_NUM_THREADS=1 "$python" benchmarks/networks.py --out "$out" --scale "$scale" \
      --only "$network" --seeds "$seed" --workers 1 >"$out/$scale-$network-$seed.log" 2>&1 &
    runs+=($!)
  done
done
for run in "${runs[@]}"; do wait "$run"; done
"$python" benchmarks/networks.py --out "$out" --scale "$scale"
