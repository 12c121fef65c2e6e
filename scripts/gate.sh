#!/usr/bin/env bash
# The word error rate gates of continuous integration, on two cores without a GPU.
#
#   make gate            PYTHON=.venv/bin/python scripts/gate.sh
#
# 1. recipes/tiny, trained from scratch, must reach 10 % on speakers that it never heard.
# 2. The model inside the package must not be significantly worse than the committed baseline.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
test_set=data/tiny/test.jsonl
baseline=tests/baselines/tiny_test.hypotheses.jsonl
output=runs/gate

section() { echo; echo "-- $* (after $SECONDS s)"; }

rm -rf "$output" # resuming an older training would not be from scratch
mkdir -p "$output"

section "training recipes/tiny from scratch"
"$python" -m asr.train recipes/tiny/config.toml train.output_dir="$output/tiny"

section "its word error rate on $test_set must be at most 10 %"
"$python" -m asr.benchmark "$test_set" --model "$output/tiny/model" \
    --output-dir "$output/tiny/test" --max-wer 0.10

if [ -f "$baseline" ]; then
    section "the shipped model against $baseline"
    "$python" -m asr.benchmark "$test_set" --output-dir "$output/shipped" --baseline "$baseline"
else
    section "NOT CHECKED: the shipped model has no baseline yet"
    echo "   Once it is good, make one and commit it:"
    echo "   $python -m asr.benchmark $test_set --output-dir $output/shipped"
    echo "   mkdir -p $(dirname "$baseline") && cp $output/shipped/hypotheses.jsonl $baseline"
fi
section "all gates passed"
