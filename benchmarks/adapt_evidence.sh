#!/usr/bin/env bash
# All evidence for label-free learning, one after the other; a run that is there already is kept.
#
#   EMCOPILOT_DATA=... bash benchmarks/adapt_evidence.sh OUT [PRESET]
#
# On one data-centre GPU give PRESET standard (the default where nvidia-smi answers); on two CPU
# cores `quick` takes more than a day. Figures and plots end up in OUT/figures.
set -euo pipefail
out=$1
preset=${2:-$(nvidia-smi >/dev/null 2>&1 && echo standard || echo quick)}
python=${PYTHON:-.venv/bin/python}
here=$(dirname "$0")
# A borrowed machine has the libraries, but not this package.
export PYTHONPATH=$(cd "$here/.." && pwd)${PYTHONPATH:+:$PYTHONPATH}
figures=$out/figures
mkdir -p "$figures"
if [ "$preset" = standard ]; then
    steps=2000 cycle=1200 start_minutes=1  # an H200 takes 20 steps a second
else
    steps=250 cycle=200 start_minutes=14
fi

run() {
    local name=$1
    shift
    [ -e "$figures/$name.json" ] && return
    "$python" "$@" --json "$figures/$name.json" --plot "$figures/$name.png" | tee "$figures/$name.txt"
}

"$python" "$here/haadf_only.py" --out "$out/haadf-only" --minutes "$start_minutes" | tee "$figures/haadf-only.txt"
start=$out/haadf-only
for ground in bf emps; do
    frames=$([ $ground = emps ] && echo 200 || echo 72)
    run "label-free-$ground" "$here/label_free.py" "$out/$ground" --ground $ground \
        --model "$start" --frames "$frames" --preset "$preset" \
        --curves "$figures/label-free-$ground-curves.png"
done
for seed in 0 1 2; do
    run "tandem-$seed" "$here/tandem.py" "$out/tandem-$seed" --seed $seed --preset "$preset" \
        --steps $steps --cycle-steps $cycle
done
run rough-tolerance "$here/rough_tolerance.py" "$out/rough" --model "$start" --preset "$preset"
run drift "$here/drift.py" "$out/bf/job" --incumbent "$start"
# The way back, last: it needs a model of its own.
"$python" "$here/haadf_only.py" --mode bf --out "$out/bf-only" --minutes "$start_minutes" | tee "$figures/bf-only.txt"
run label-free-haadf "$here/label_free.py" "$out/haadf" --ground haadf --model "$out/bf-only" \
    --frames 72 --preset "$preset" --curves "$figures/label-free-haadf-curves.png"
