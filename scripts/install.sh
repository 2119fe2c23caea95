#!/bin/sh
# Installs the toolkit into .venv, or does nothing when that is done already (in well under a second).
#   scripts/install.sh run     what the toolkit needs to run
#   scripts/install.sh test    that, and what the tests and the linters need
# PYTHON       an interpreter, 3.10 to 3.12; default: the first of python3.12 to python3.10 and python3 that can be used
# TORCH_INDEX  a package index to take torch and torchvision from, such as the CPU-only one; kept until `make clean`
# What pip says goes to .venv/install.log. A broken-off install is mended by the next call.
set -eu
cd "$(dirname "$0")/.."

venv=.venv
log=$venv/install.log
steps=5
step=0
child=

say() { printf '%s\n' "$*"; }
fail() {
    printf 'metalearn: %s\n' "$*" >&2
    exit 1
}

# --- the interpreter ---------------------------------------------------------------------------------------------

# Any Python from 2 on understands this. It prints a verdict, the version, and the folder of Python.h.
probe='
import os, sys, sysconfig
def verdict():
    if not (3, 10) <= sys.version_info[:2] < (3, 13):
        return "version"
    try:
        import ensurepip, venv
    except ImportError:
        return "venv"
    try:
        import bz2, ctypes, lzma, ssl, zlib
    except ImportError:
        return "partial"
    headers = sysconfig.get_config_var("INCLUDEPY") or ""
    return "ok" if os.path.exists(os.path.join(headers, "Python.h")) else "headers"
print(verdict() + " %d.%d" % sys.version_info[:2] + " " + (sysconfig.get_config_var("INCLUDEPY") or "-"))
'

examine() { # interpreter: sets verdict, version and headers; false if it cannot be run (a pyenv shim, say)
    answer=$("$1" -c "$probe" 2>/dev/null </dev/null) || return 1
    verdict=${answer%% *}
    answer=${answer#* }
    version=${answer%% *}
    headers=${answer#* }
}

refuse_python() { # verdict, interpreter, version: one line that says what to do
    case $1 in
    venv) fail "$2 (Python $3) has no venv module with pip: install it (Debian, Ubuntu: apt install python$3-venv), or name another: PYTHON=/path/to/python3.11" ;;
    headers) fail "$2 (Python $3) has no header files, which learn2learn is compiled with: install them (Debian, Ubuntu: apt install python$3-dev; Fedora: dnf install python$3-devel), or name another: PYTHON=/path/to/python3.11" ;;
    partial) fail "$2 (Python $3) was built without one of bz2, ctypes, lzma, ssl, zlib, which torch or pip need: build it again with their libraries, or name another: PYTHON=/path/to/python3.11" ;;
    *) fail "Python 3.10, 3.11 or 3.12 is needed; found $2 (Python $3): install one, or name it: PYTHON=/path/to/python3.11" ;;
    esac
}

choose_python() { # sets python, version and headers
    if [ -n "${PYTHON:-}" ]; then
        examine "$PYTHON" || fail "PYTHON=$PYTHON cannot be run: name a Python 3.10, 3.11 or 3.12, such as PYTHON=/path/to/python3.11"
        [ "$verdict" = ok ] || refuse_python "$verdict" "PYTHON=$PYTHON" "$version"
        python=$PYTHON
        return
    fi
    nearest=
    for python in python3.12 python3.11 python3.10 python3; do
        examine "$python" || continue
        [ "$verdict" != ok ] || return 0
        # Of those that will not do, report one of the right version rather than one of a wrong version.
        case $nearest in
        '' | version*) nearest="$verdict $python $version" ;;
        esac
    done
    [ -n "$nearest" ] || fail "Python 3.10, 3.11 or 3.12 is needed and none was found: install one, or name it: PYTHON=/path/to/python3.11"
    # shellcheck disable=SC2086 # three words
    refuse_python $nearest
}

# --- what else must be there -------------------------------------------------------------------------------------

find_compiler() { # sets and exports CC
    for compiler in ${CC:+"$CC"} cc gcc clang; do
        # CC may hold options: "gcc -pthread"
        if command -v "${compiler%% *}" >/dev/null 2>&1; then
            CC=$compiler
            export CC
            return
        fi
    done
    fail "no C compiler (cc, gcc or clang), which learn2learn is compiled with: install one (Debian, Ubuntu: apt install build-essential; Fedora: dnf install gcc; macOS: xcode-select --install), or name it: CC=/path/to/gcc"
}

try_compiler() {
    printf '#include <Python.h>\nint metalearn_probe(void) { return PY_MAJOR_VERSION; }\n' >"$TMPDIR/probe.c"
    # shellcheck disable=SC2086 # CC may hold options
    $CC -I"$headers" -c "$TMPDIR/probe.c" -o "$TMPDIR/probe.o" >>"$log" 2>&1 ||
        fail "the C compiler '$CC' does not compile a file that includes Python.h: install its C library headers (Debian, Ubuntu: apt install build-essential); what it said: $log"
}

need_disk() { # gigabytes
    free=$(df -Pk . 2>/dev/null | awk 'NR == 2 { print int($4 / 1048576) }') || return 0
    [ "${free:-$1}" -ge "$1" ] || fail "disk full: the install needs $1 GB here and $free GB are free: make room, or take a smaller torch: TORCH_INDEX=URL of its CPU-only index"
}

# --- steps, each one line with the time it may take ---------------------------------------------------------------

begin() { # what it does
    step=$((step + 1))
    say "[$step/$steps] $1"
}

doing() { # what pip is busy with, from its log
    tail -n 40 "$log" 2>/dev/null | grep -E '^ *(Collecting|Downloading|Building|Preparing|Installing|Using)' | tail -n 1 | cut -c 1-80 | sed 's/^ *//'
}

attempt() { # command...: runs it with its output in the log and a sign of life on the screen
    printf '$ %s\n' "$*" >>"$log"
    mark=$(($(wc -l <"$log") + 1))
    "$@" >>"$log" 2>&1 </dev/null &
    child=$!
    seconds=0
    while kill -0 "$child" 2>/dev/null; do
        sleep 1
        seconds=$((seconds + 1))
        if [ -t 1 ]; then
            printf '\r\033[K      %3d s  %s' "$seconds" "$(doing)"
        elif [ $((seconds % 60)) -eq 0 ]; then
            printf '      %3d s  %s\n' "$seconds" "$(doing)"
        fi
    done
    [ ! -t 1 ] || printf '\r\033[K'
    status=0
    wait "$child" || status=$?
    child=
    return "$status"
}

pip() { attempt "$venv/bin/python" -m pip "$@" || explain; }

said() { tail -n +"$mark" "$log" | grep -Eqi "$1"; }

explain() { # the one line for the command that failed last
    reason=$(tail -n +"$mark" "$log" | grep -E '^ *(ERROR|error|fatal error|[A-Za-z.]*Error):' | tail -n 1 | cut -c 1-160)
    if said 'No space left on device|Errno 28|disk quota'; then
        fail "disk full: make room and call again; it goes on from here. Log: $log"
    elif said 'metadata-generation-failed|failed building|failed to build'; then
        fail "a package could not be built${reason:+: $reason}. Log: $log"
    elif said 'name resolution|Name or service not known|nodename nor servname|NewConnectionError|Network is unreachable|ConnectTimeout|ReadTimeout|Connection (refused|reset|aborted|broken)|RemoteDisconnected|IncompleteRead|ProxyError|SSLError|CERTIFICATE_VERIFY'; then
        fail "no network: pip could not reach its package index or was cut off; check the connection or the proxy and call again. Log: $log"
    elif said 'No matching distribution found'; then
        wanted=$(tail -n +"$mark" "$log" | sed -n 's/.*No matching distribution found for \([^ ]*\).*/\1/p' | tail -n 1)
        fail "the package index has no ${wanted:-such package} for this Python and machine. Log: $log"
    fi
    fail "step $step of $steps failed${reason:+: $reason}. Log: $log"
}

interrupted() {
    [ -z "$child" ] || kill "$child" 2>/dev/null || :
    [ ! -t 1 ] || printf '\n'
    fail "interrupted; the next call goes on from here"
}

pin() { sed -n "s/^$1==\([^ ]*\).*/$1==\1/p" constraints.txt; }

# --- here it runs --------------------------------------------------------------------------------------------------

case ${1:-} in
run) target=. ;;
test) target='.[test]' ;;
*) fail "usage: scripts/install.sh run|test" ;;
esac

# A changed project file or pin installs again; so does another interpreter or a checkout that was moved.
key="$(cksum <pyproject.toml) $(cksum <constraints.txt)"
here=$(pwd -P)
old=$(cat "$venv/made-for" 2>/dev/null) || old=
old_version=${old%% *}
if [ -n "$old" ]; then
    "$venv/bin/python" -c '' 2>/dev/null && [ "${old#* }" = "$here" ] || old=
fi
if [ -n "${PYTHON:-}" ] && [ -n "$old" ]; then
    choose_python
    [ "$version" = "$old_version" ] || old=
fi
if [ -n "$old" ]; then
    known_index=$(cat "$venv/torch-index" 2>/dev/null) || known_index=
    TORCH_INDEX=${TORCH_INDEX:-$known_index}
    done_key=$(cat "$venv/installed-$1" 2>/dev/null) || done_key=
    [ "$done_key" != "$key" ] || [ "$TORCH_INDEX" != "$known_index" ] || exit 0
fi
TORCH_INDEX=${TORCH_INDEX:-}

started=$(date +%s)
trap interrupted INT TERM HUP
if [ -n "$old" ]; then
    examine "$venv/bin/python"
    [ "$verdict" = ok ] || refuse_python "$verdict" "$venv/bin/python" "$version"
else
    choose_python
fi
find_compiler
if [ -z "$old" ] || [ ! -e "$venv/installed-torch" ]; then
    case $(uname -s)-${TORCH_INDEX:+chosen} in
    Linux-) need_disk 9 ;;
    *) need_disk 3 ;;
    esac
fi

if [ -z "$old" ]; then
    [ ! -e "$venv" ] || instead=', in place of the one there'
    begin "a virtual environment in $venv with Python $version${instead:-} (5 s)"
    { rm -rf "$venv" && mkdir "$venv"; } || fail "cannot write $venv in $here"
    : >"$log"
    attempt "$python" -m venv "$venv" || explain
    say "$version $here" >"$venv/made-for"
else
    begin "the virtual environment in $venv with Python $old_version: there already"
    say '--- once more' >>"$log"
fi
whole=$(cat "$venv"/installed-run "$venv"/installed-test 2>/dev/null) || :
rm -f "$venv"/installed-run "$venv"/installed-test

# Big files are unpacked on the disk they end on; a small /tmp would not hold torch.
TMPDIR=$here/$venv/tmp
PIP_DISABLE_PIP_VERSION_CHECK=1
PIP_NO_INPUT=1
PIP_USER=0
PYTHONNOUSERSITE=1
export TMPDIR PIP_DISABLE_PIP_VERSION_CHECK PIP_NO_INPUT PIP_USER PYTHONNOUSERSITE
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX || :
rm -rf "$TMPDIR"
mkdir "$TMPDIR"
try_compiler

pins=$venv/constraints.txt
if [ -n "$TORCH_INDEX" ]; then
    grep -Ev '^(nvidia-|cuda-|triton)' constraints.txt >"$pins"
else
    cp constraints.txt "$pins"
fi

if [ -n "$old" ] && [ -z "$whole" ]; then # an install that was broken off may have left half a package, pip itself included
    "$venv/bin/python" scripts/mend.py >>"$log" 2>&1 || fail "cannot repair $venv: make clean, then call again. Log: $log"
    attempt "$venv/bin/python" -m ensurepip || explain
fi

begin "pip, setuptools and Cython (10 s)"
pip install --retries 2 "$(pin pip)" "$(pin setuptools)" "$(pin cython)"

# From an index of its own torch comes with no dependencies: those are pinned, and come with the rest.
if [ -n "$TORCH_INDEX" ]; then
    begin "torch and torchvision from $TORCH_INDEX (1 to 10 minutes; a CPU-only build is 200 MB to fetch)"
    again=
    [ "$(cat "$venv/torch-index" 2>/dev/null)" = "$TORCH_INDEX" ] || again=--force-reinstall
    pip install --index-url "$TORCH_INDEX" --no-deps ${again:+"$again"} "$(pin torch)" "$(pin torchvision)"
    say "$TORCH_INDEX" >"$venv/torch-index"
else
    begin "torch and torchvision (3 to 20 minutes; on Linux 2.9 GB to fetch, 5.5 GB on disk)"
    pip install -c "$pins" "$(pin torch)" "$(pin torchvision)"
fi
: >"$venv/installed-torch"

# build_ext makes learn2learn's setup run Cython again: the C files it ships do not compile on Python 3.11 and later.
# Its own build is pinned by being done here, without isolation, by the Cython and setuptools installed above.
begin "learn2learn, compiled (30 s), and the other libraries (1 to 3 minutes, 150 MB to fetch)"
pip install -c "$pins" --no-deps --no-build-isolation --use-pep517 --config-settings=--build-option=build_ext "$(pin learn2learn)"
pip install -c "$pins" --no-build-isolation --use-pep517 -e "$target"

begin "a look whether it imports (20 s)"
attempt "$venv/bin/python" -c 'import torch, torchvision, learn2learn, tensorboard, metalearn, gvae, tasks' ||
    fail "installed, but it does not import: $(tail -n 1 "$log" | cut -c 1-160). Log: $log"

rm -rf "$TMPDIR"
[ "$1" = run ] || say "$key" >"$venv/installed-run"
say "$key" >"$venv/installed-$1"
say "installed in $venv in $(($(date +%s) - started)) s"
