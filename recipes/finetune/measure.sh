#!/usr/bin/env bash
# Measure what fine-tuning does: the shipped model before, after ten files, and after 300.
#
#   recipes/finetune/measure.sh
#   DEV_CLEAN=runs/manifests/dev-clean.jsonl recipes/finetune/measure.sh   # and what it forgets
#
# Run it in the project's folder with its environment active. Results go to runs/finetune and, as
# a table, to recipes/finetune/results.md. What is there is not done again.
set -euo pipefail
python=${PYTHON:-python}
run=runs/finetune

score() { # NAME MODEL: recognise the test sets, held against the model before
    for set in "tiny data/tiny/test.jsonl" ${DEV_CLEAN:+"real $DEV_CLEAN --limit 100"}; do
        # shellcheck disable=SC2086
        set -- "$1" "$2" $set
        local output=$run/$1/$3 baseline=()
        [ -f "$output/summary.json" ] && continue
        [ "$1" != before ] && baseline=(--baseline "$run/before/$3/hypotheses.jsonl")
        # "Significantly worse" is exit code 1, and a result like any other.
        "$python" -m asr.benchmark "${@:4}" --model "$2" --output-dir "$output" --threads 1 \
            "${baseline[@]}" || [ -f "$output/summary.json" ]
    done
}

tune() { # NAME UTTERANCES SETTINGS…
    local output=$run/$1
    "$python" recipes/finetune/pick.py data/tiny/train.jsonl --count "$2" --output "$run/$1.jsonl"
    if [ ! -d "$output/last" ]; then
        "$python" -m asr.train recipes/finetune/config.toml "data.train_manifests=$run/$1.jsonl" \
            "train.output_dir=$output" train.device=cpu train.threads=1 "${@:3}"
    fi
    score "$1" "$output/last"
}

score before asr/models/default
tune ten 10
tune three-hundred 300 train.max_steps=200 train.decay_steps=120
"$python" recipes/finetune/report.py $run --output recipes/finetune/results.md
