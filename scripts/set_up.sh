#!/usr/bin/env bash
# Make a virtual environment and install Hedgerow into it, from this checkout.
# usage: set_up.sh VENV EXTRA
set -u
venv=$1 extra=$2
python=${PYTHON:-python3}
stop() { echo "set-up: $1" >&2; exit 1; }

command -v "$python" >/dev/null || stop "there is no $python: install Python 3.11 or newer, or say which: make PYTHON=python3.12 ..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || stop "$("$python" --version) is too old: Hedgerow needs Python 3.11 or newer (make PYTHON=python3.12 ...)"
case $(uname -m) in
    armv6l | armv7l | i?86) stop "32-bit systems have no wheels of torch and onnxruntime: use a 64-bit operating system" ;;
esac

if [ ! -x "$venv/bin/python" ]; then
    echo "set-up: making a virtual environment in $venv"
    "$python" -m venv "$venv" >"$venv.log" 2>&1 \
        || stop "no virtual environment could be made ($(tail -n 1 "$venv.log")): apt-get install python3-venv, or see $venv.log"
    rm -f "$venv.log"
fi
echo "set-up: installing hedgerow[$extra] into $venv (the first time some minutes and about 1 GB, torch above all)"
log=$venv/set-up.log
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$extra]" \
    >"$log" 2>&1 || {
    grep -iE 'error|no matching|temporary failure|connection' "$log" | tail -n 3 >&2
    stop "pip failed; without a network nothing can be installed. All of what it said is in $log"
}
touch "$venv/.ready-$extra"
