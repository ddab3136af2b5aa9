#!/usr/bin/env bash
# Compare what the codecs write and read here and on a 64-bit ARM, emulated: `make test-arm64`.
#
# Debian's arm64 packages of Python, numpy and msgpack are downloaded with the host's apt, but with settings and lists of
# their own, and unpacked into a folder; nothing is installed but qemu-user-static, and that only by root. All of it stays
# in build/test-arm64 and is used again. Suites: the arguments, or trixie (numpy 2.2) and bookworm (numpy 1.24). The first one
# runs once more without the vector extensions that numpy chooses at run time. With SVE=1 it also runs on a processor with
# scalable vectors, which takes twice as long as all the rest.
set -u
cd "$(dirname "$0")/../.." || exit 1
here=$PWD python=${PYTHON:-python3} folder=$PWD/build/test-arm64
suites=${*:-trixie bookworm}
stop() { echo "test-arm64: $1" >&2; exit 1; }

for tool in apt-get dpkg-deb; do
    command -v $tool >/dev/null || stop "there is no $tool: this needs a Debian or a system made from it"
done
if ! command -v qemu-aarch64-static >/dev/null; then
    [ "$(id -u)" = 0 ] || stop "the emulator is missing: apt-get install qemu-user-static"
    echo "test-arm64: installing qemu-user-static"
    { apt-get update && apt-get install --yes --no-install-recommends qemu-user-static; } >/dev/null 2>&1 \
        || stop "apt-get could not install qemu-user-static"
fi
mirror=${MIRROR:-$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null \
    | awk '$1 == "Debian" && $2 !~ /security/ {print $2; exit}')}
[ -n "$mirror" ] || stop "apt knows no Debian mirror here: name one, as in MIRROR=http://mirror.example/debian make test-arm64"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r $keyring ] || stop "the keys of Debian's archive are missing: apt-get install debian-archive-keyring"
mkdir -p "$folder" || stop "cannot write $folder"

# unpack SUITE: make $folder/SUITE/root, once.
unpack() {
    local suite=$1 base=$folder/$1
    [ -e "$base/complete" ] && return
    echo "test-arm64: fetching Python, numpy and msgpack of Debian $suite for arm64 into $base"
    rm -rf "$base"
    mkdir -p "$base"/apt/{state/lists/partial,cache/archives/partial,etc/preferences.d} "$base/root/usr"/{bin,lib,sbin} || return
    : >"$base/apt/status"
    echo "deb [arch=arm64 signed-by=$keyring] $mirror $suite main" >"$base/apt/sources.list"
    local apt=(apt-get --quiet --quiet --yes --no-install-recommends
        -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Sandbox::User=root
        -o Dir::Etc="$base/apt/etc" -o Dir::Etc::sourcelist="$base/apt/sources.list" -o Dir::Etc::sourceparts=-
        -o Dir::State="$base/apt/state" -o Dir::State::status="$base/apt/status" -o Dir::Cache="$base/apt/cache")
    "${apt[@]}" update || return
    "${apt[@]}" install --download-only python3-minimal python3-numpy python3-msgpack libopenblas0-pthread || return
    local name
    for name in bin lib sbin; do ln -s usr/$name "$base/root/$name"; done
    for name in "$base"/apt/cache/archives/*.deb; do
        dpkg-deb --extract "$name" "$base/root" || return
    done
    touch "$base/complete"
}

# emulated SUITE PROCESSOR ARGUMENTS...: Python on the ARM. BLAS would be chosen by a script of its package, which does not run
# here. Signed return addresses are what takes longest to emulate: six times as long as all the rest, if they were signed well.
emulated() {
    local root=$folder/$1/root processor=$2 lib=/usr/lib/aarch64-linux-gnu
    shift 2
    qemu-aarch64-static -cpu "$processor" -L "$root" -E LD_LIBRARY_PATH="$root$lib/openblas-pthread:$root$lib" \
        -E PYTHONPATH=codecs -E OMP_NUM_THREADS=1 -E OPENBLAS_NUM_THREADS=1 \
        -E NPY_DISABLE_CPU_FEATURES="${without:-}" "$root/usr/bin/python3" -B "$@"
}

echo "test-arm64: on this machine"
run=tests/determinism/digests.py
if ! "$python" -c 'import msgpack, numpy' 2>/dev/null; then
    stop "$python has no numpy and msgpack: make test-arm64 sets up one that has"
fi
PYTHONPATH=codecs OMP_NUM_THREADS=1 "$python" $run >"$folder/here.json" || stop "failed on this machine"
results=("$folder/here.json")
# compared LABEL SUITE PROCESSOR WITHOUT OPTIONS...: one result more.
compared() {
    local file=$folder/$1.json started=$SECONDS
    without=$4 emulated "$2" "$3" $run "${@:5}" >"$file" || stop "failed on Debian $2 on $3"
    echo "test-arm64: Debian $2 on $3, ${4:+without $4, }emulated: $((SECONDS - started)) s"
    results+=("$file")
}
for suite in $suites; do
    unpack "$suite" || stop "could not fetch Debian $suite for arm64 from $mirror"
    compared "$suite" "$suite" cortex-a76 ''  # the processor of a Raspberry Pi 5
done
suite=${suites%% *}
[ -z "${SVE:-}" ] || compared "$suite-sve" "$suite" max,pauth-impdef=on ''
dispatched=$(without='' emulated "$suite" cortex-a76 $run --dispatched)
compared "$suite-without" "$suite" cortex-a76 "$dispatched" --none-dispatched
cd "$here" && "$python" tests/determinism/compare.py "${results[@]}"
