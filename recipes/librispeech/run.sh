#!/usr/bin/env bash
# From nothing to the table of results: download, manifests, language models, training, scores.
#
#   recipes/librispeech/run.sh mini_5h
#   recipes/librispeech/run.sh clean_100h data.batch_seconds=200   # settings go to the training
#   CORPUS=/data GPUS=4 recipes/librispeech/run.sh full_960h
#   LM_TEXT=books.txt.xz recipes/librispeech/run.sh mini_5h train.device=cpu
#
# Run it in the project's folder with its environment active. Stopped at any point, the same
# command goes on where it was; what is done is not done again. A step that fails has said why in
# one line (torchrun adds lines of its own), and its exit code is this script's.
#
# Environment (defaults in brackets):
#   CORPUS [corpora]               archives are unpacked here; subsets that are there are used
#   MIRROR []                      another server of openslr's archives
#   GPUS [all there are]           training processes; 0 or 1 is one process without torchrun
#   LM_TEXT []                     text files for language models of words and of characters, with
#                                  which the model searches along words; without, none are made
#   EVALUATE []                    flags for the search, such as "--accurate" or "--method beam"
#   RESULTS [recipes/librispeech]  folder of RESULTS.md and results/
#   PYTHON [python]                the interpreter
# Manifests go to runs/manifests, the run to runs/NAME: the configurations say so.
set -euo pipefail
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}
corpus=${CORPUS:-corpora}
results=${RESULTS:-$recipe}
manifests=runs/manifests
tests=(dev-clean dev-other test-clean test-other)

fail() { echo "run.sh: $*" >&2; exit 2; }
stage() { echo "== $* (after $SECONDS s)"; }

name=${1:-}
[ $# -gt 0 ] && shift
case $name in
    mini_5h) training=(train-clean-5) ;;
    clean_100h) training=(train-clean-100) ;;
    clean_460h) training=(train-clean-100 train-clean-360) ;;
    full_960h) training=(train-clean-100 train-clean-360 train-other-500) ;;
    *) fail "found configuration '$name', wanted mini_5h, clean_100h, clean_460h or full_960h" ;;
esac
run=runs/$name
command -v "$python" > /dev/null || fail "found no $python, wanted the project's environment active"

stage "1/4 data: ${training[*]} ${tests[*]}"
"$python" "$recipe/prepare.py" --corpus "$corpus" --download --output "$manifests" \
    --subsets "${training[@]}" "${tests[@]}" ${MIRROR:+--mirror "$MIRROR"}

# Both programs write to another name first: a file that is there is whole.
make_lm() { # PROGRAM FILE
    if [ -f "$2" ]; then
        stage "2/4 language model: $2 is there"
    else
        stage "2/4 language model $2 from $LM_TEXT"
        # shellcheck disable=SC2086  # several files are several words
        "$python" "$recipe/../language_model/$1" $LM_TEXT --output "$2"
    fi
}

lm=$run/lm.safetensors    # of characters
words=$run/words.safetensors
if [ -z "${LM_TEXT:-}" ]; then
    stage "2/4 language models: none, LM_TEXT is empty"
else
    make_lm train.py "$lm"
    make_lm train_words.py "$words"
fi

gpus=${GPUS:-$("$python" -c "import torch; print(torch.cuda.device_count())")}
finished=$run/finished-with.txt # the settings of the run that is complete
if [ -f "$finished" ] && [ "$(cat "$finished")" = "settings: $*" ]; then
    stage "3/4 training: $run is complete"
else
    launcher=()
    if [ "$gpus" -gt 1 ]; then
        launcher=(-m torch.distributed.run --standalone "--nproc-per-node=$gpus")
    fi
    resume=()
    if [ -f "$run/state.pt" ]; then resume=(train.resume=true); fi
    stage "3/4 training ${resume:+goes on }with $gpus GPUs: $run"
    "$python" "${launcher[@]}" "$recipe/train.py" "$name" "train.output_dir=$run" "$@" "${resume[@]}"
    echo "settings: $*" > "$finished"
fi
flags=${EVALUATE:-}
if [ -n "${LM_TEXT:-}" ]; then
    "$python" "$recipe/equip.py" "$run/model" --lm "$lm" --word-lm "$words"
    if [ -f "$run/model/words.safetensors" ]; then
        flags=${flags:---method words}
    else # data.lexicon= was among the settings: the network knows no phones
        flags=${flags:---method beam --lm-weight 0.4}
    fi
fi

stage "4/4 word error rates"
# shellcheck disable=SC2086
"$python" "$recipe/evaluate.py" "$run/model" --name "$name" --manifests "$manifests" \
    --sets "${tests[@]}" --results "$results" --keep ${flags:+-- $flags}
sed -n '/made by evaluate.py: begin/,/made by evaluate.py: end/p' "$results/RESULTS.md"
stage "all is in $results/RESULTS.md"
