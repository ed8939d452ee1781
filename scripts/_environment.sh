# The one environment of the project, for the other scripts: `source` it, then call prepare_environment.
#
# It makes .venv with Python 3.11 or newer, installs the project (editable) with the versions in
# constraints.txt, and puts .venv/bin first on PATH. A stamp with the hash of pyproject.toml and
# constraints.txt tells whether that was done already. PYTHON=/path/to/python chooses another one.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv

prepare_environment() {
    cd "$ROOT"
    local stamp=$VENV/installed.sha256 log=$VENV/install.log wanted
    wanted=$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)
    if [[ $(cat "$stamp" 2>/dev/null) != "$wanted" ]]; then
        _make_venv
        _install "$log"
        echo "$wanted" >"$stamp"
    fi
    export PATH=$VENV/bin:$PATH
}

# The cores there are, less where a container may use fewer of them.
available_cores() {
    local cores quota period
    cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc) # nproc would say what these say
    if read -r quota period 2>/dev/null </sys/fs/cgroup/cpu.max && [[ $quota != max ]]; then
        quota=$(((quota + period - 1) / period))
        cores=$((quota < cores ? quota : cores))
    fi
    echo "$cores"
}

_fail() {
    echo "scripts/${0##*/}: $*" >&2
    exit 2
}

_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        if [[ -n $candidate ]] && "$candidate" -c \
            'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    _fail "there is no Python 3.11 or newer: apt-get install python3.11-venv, or name one as PYTHON"
}

_make_venv() {
    [[ -x $VENV/bin/pip ]] && return
    local python
    python=$(_python) || exit 2
    echo "making .venv with $("$python" --version)"
    # Debian's Python comes without ensurepip; its pip, where there is one, can help out.
    "$python" -m venv "$VENV" >/dev/null 2>&1 ||
        { "$python" -m venv --clear --without-pip "$VENV" &&
            "$python" -m pip --quiet --python "$VENV/bin/python" install pip; } >/dev/null 2>&1 ||
        { rm -rf "$VENV" && _fail "$python can't make an environment: apt-get install python3.11-venv"; }
}

_reason() {
    grep -iE '^ *error: ' "$1" | grep -v subprocess-exited | tail -n 1 | sed 's/^ *//' | grep . ||
        tail -n 1 "$1"
}

# uv installs in a quarter of pip's time. Where it can't be had, or can't do what pip's settings say, pip
# does it. Byte code is left to the first import: most files are never imported.
_install_packages() {
    local options=()
    if "$VENV/bin/pip" install --disable-pip-version-check --constraint constraints.txt uv; then
        mapfile -t options < <(_pip_settings)
        "$VENV/bin/uv" pip install --python "$VENV/bin/python" --index-strategy unsafe-best-match \
            "${options[@]}" "$@" && return
        echo "uv failed; pip does it instead"
    fi
    "$VENV/bin/pip" install --progress-bar off --no-compile --disable-pip-version-check "$@"
}

# What pip is set to, in its files or its environment, as options for uv, which reads none of it. Of the
# indexes that have a version uv looks into the first only, and an extra one may have just the wheel
# without the compiled part (soundfile): pip's main index goes first.
_pip_settings() {
    local settings section main="" name values value
    settings=$("$VENV/bin/pip" config list)
    for section in :env: install global; do # as pip itself gives way
        main=${main:-$(sed -n "s/^$section\.index-url='\(.*\)'$/\1/p" <<<"$settings")}
    done
    main=${main:-${UV_DEFAULT_INDEX:-$("$VENV/bin/python" -c \
        'from pip._internal.models.index import PyPI; print(PyPI.simple_url)')}}
    printf '%s\n' --default-index "$main" --index "$main"
    while read -r name values; do
        [[ $name != extra-index-url ]] || name=index
        for value in ${values//\\n/ }; do printf '%s\n' "--$name" "$value"; done
    done < <(sed -nE "s/^(:env:|install|global)\.(extra-index-url|find-links|constraint)='(.*)'$/\2 \3/p" \
        <<<"$settings")
}

_install() {
    local log=$1 start=$SECONDS installer
    echo "installing into .venv: about 5.4 GB, some minutes (log: ${log#"$ROOT/"})"
    _install_packages --editable '.[test,dev,quickstart]' --constraint constraints.txt >"$log" 2>&1 &
    installer=$!
    while [[ -t 1 ]] && kill -0 $installer 2>/dev/null; do
        printf '\r  %s, %d s ' "$(du -sh "$VENV" 2>/dev/null | cut -f1)" $((SECONDS - start))
        sleep 2
    done
    [[ ! -t 1 ]] || echo
    wait $installer || _fail "the installation failed: $(_reason "$log") (${log#"$ROOT/"} has the" \
        "rest). Is there a network, and space on the disk? Then run the same command again"
    echo "installed in $((SECONDS - start)) s"
}
