#!/usr/bin/env bash
# Fuzz the decoders with atheris, from a corpus that grows in build/fuzz: `make fuzz`; again to go on.
# Arguments: frames (the codecs, the default) or messages (the transport), then options of libFuzzer, which end the run
# after ten minutes if they do not say otherwise.
set -u
cd "$(dirname "$0")/../.." || exit 1
python=${PYTHON:-python3} folder=$PWD/build/fuzz
stop() { echo "fuzz: $1" >&2; exit 1; }

target=${1:-frames}
[ $# = 0 ] || shift
case $target in frames | messages) ;; *) stop "say what to fuzz: make fuzz ARGS=frames, or ARGS=messages" ;; esac
command -v "$python" >/dev/null || stop "there is no $python: say which Python to use: make fuzz PYTHON=python3.12"
mkdir -p "$folder/$target" || stop "cannot write $folder"
if [ ! -e "$folder/venv/complete" ]; then
    echo "fuzz: installing atheris into $folder/venv"
    rm -rf "$folder/venv"
    "$python" -m venv "$folder/venv" >"$folder/set-up.log" 2>&1 \
        && "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
            --constraint constraints.txt --requirement tests/fuzz/requirements.txt >>"$folder/set-up.log" 2>&1 \
        || stop "could not install atheris, which has wheels for Linux on x86-64 and Python 3.11 to 3.13: $(tail -n 1 "$folder/set-up.log")"
    touch "$folder/venv/complete"
fi
run=("$folder/venv/bin/python")
export PYTHONPATH=codecs:transport OMP_NUM_THREADS=1
"${run[@]}" tests/fuzz/corpus.py seeds "$target" "$folder/$target" || stop "could not write what to start from"
if [ -e "tests/fuzz/kept/$target.txt" ]; then
    "${run[@]}" tests/fuzz/corpus.py unpack "$target" "$folder/$target" || stop "could not read tests/fuzz/kept/$target.txt"
fi
case " $*" in *' -max_total_time='* | *' -runs='* | *' -merge='*) ;; *) set -- -max_total_time=600 "$@" ;; esac
echo "fuzz: $target, from $(find "$folder/$target" -type f | wc -l) inputs in $folder/$target; what fails is written to $folder"
"${run[@]}" tests/fuzz/fuzz.py "$target" "$@" -max_len=4096 -len_control=0 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$folder/" "$folder/$target" || stop "something was found: the last lines above say what, and in which file"
