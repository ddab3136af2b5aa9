#!/usr/bin/env bash
# Compare what the codecs write and read between numpy 1.26, the newest numpy, and both without the vector extensions
# that they choose at run time. `make test-numpy`; needs a Python for which numpy 1.26 has wheels (3.11 or 3.12).
set -u
cd "$(dirname "$0")/../.." || exit 1
python=${PYTHON:-python3} folder=build/test-numpy
export PYTHONPATH=codecs OMP_NUM_THREADS=1
stop() { echo "test-numpy: $1" >&2; exit 1; }

command -v "$python" >/dev/null || stop "there is no $python: say which Python to use: make test-numpy PYTHON=python3.12"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
    || stop "$("$python" --version) will not do: numpy 1.26 has wheels up to Python 3.12, Hedgerow needs 3.11: make test-numpy PYTHON=python3.12"
rm -rf "$folder" && mkdir -p "$folder" || stop "cannot write $folder"
for wanted in 'oldest numpy==1.26.*' 'newest numpy'; do
    read -r name numpy <<<"$wanted"
    echo "test-numpy: installing $numpy into $folder/$name"
    "$python" -m venv "$folder/$name" >"$folder/$name.log" 2>&1 \
        && "$folder/$name/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade --only-binary :all: "$numpy" msgpack \
            >>"$folder/$name.log" 2>&1 || stop "could not install $numpy: $(tail -n 1 "$folder/$name.log")"
    run=("$folder/$name/bin/python" tests/determinism/digests.py)
    "${run[@]}" >"$folder/$name.json" || stop "$name failed"
    NPY_DISABLE_CPU_FEATURES=$("${run[@]}" --dispatched) "${run[@]}" --none-dispatched >"$folder/$name-without.json" \
        || stop "$name failed without vector extensions"
done
"$python" tests/determinism/compare.py "$folder"/{newest,newest-without,oldest,oldest-without}.json
