# The stages of scripts/quickstart, which sources this: each runs once, says what to do where it fails,
# and is skipped afterwards.

# stages_after WHAT: begins a chain of stages. WHAT is what decides about all of them.
stages_after() {
  chain=$1
}

# stage TITLE OUT COMMAND…: runs COMMAND, which makes the folder OUT. Where the same command has made it
# from the same configuration, after the same stages with the same data, it is skipped; the record of
# that is OUT/.quickstart.
stage() {
  local code=0
  _stage "$@" || code=$?
  ((code == 0)) && return
  echo "scripts/quickstart: stopped (exit code $code) at: ${*:3}" >&2
  echo "Mend what the message above says and run scripts/quickstart again; it goes on from here." >&2
  exit "$code"
}

# As `stage`, but a failure is the caller's to deal with.
optional_stage() {
  _stage "$@"
}

_stage() {
  local title=$1 out=$2 argument key
  shift 2
  printf '\n== %s\n' "$title"
  key=$({
    printf '%s\n' "$chain" "$@"
    for argument; do [[ $argument != configs/* ]] || cat "$argument"; done
  } | sha256sum)
  if [[ $(cat "$out/.quickstart" 2>/dev/null) == "$key" ]]; then
    echo "done already: $out"
  else
    "$@" || return
    echo "$key" >"$out/.quickstart"
  fi
  # What was made counts for the stages that follow: data that are made anew are other data.
  chain=$key$({ cat "$out/manifest.json" "$out/latest" 2>/dev/null || true; } | sha256sum)
}

# together NAME…: calls the functions NAME…, side by side; each is a chain of stages of its own. What the
# first one says is seen as it comes, and then what the others said.
together() {
  local name code=0 folder
  local -A running=()
  folder=$(mktemp -d)
  set -m # each in a process group, so that a signal can reach all of it
  for name in "${@:2}"; do
    _lane "$folder" "$name" >"$folder/$name.log" 2>&1 &
    running[$name]=$!
  done
  set +m
  # shellcheck disable=SC2064 # the processes of now are meant
  trap "kill -TERM -- ${running[*]/#/-} 2>/dev/null || true; rm -rf '$folder'" EXIT
  trap 'exit 130' INT
  _lane "$folder" "$1" || code=$?
  for name in "${@:2}"; do
    tail --pid="${running[$name]}" --sleep-interval=0.2 -n +1 -f "$folder/$name.log"
    wait "${running[$name]}" || code=$?
  done
  ((code == 0)) || exit "$code"
  chain=$(for name; do cat "$folder/$name"; done | sha256sum)
  trap - EXIT INT
  rm -r "$folder"
}

_lane() (
  "$2"
  echo "$chain" >"$1/$2"
)

# trained_without DATA RUN: whether RUN has started, on other data than DATA. It then goes on so.
trained_without() {
  [[ -e $2/config.yaml ]] && ! grep -q "path: $1$" "$2/config.yaml"
}
