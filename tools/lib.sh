# Shell functions that the tools share.
say() { printf '== %s\n' "$*" >&2; }

# die SENTENCE NEXT_STEP
die() {
  printf '%s\n%s\n' "$1" "$2" >&2
  exit 1
}

# quietly LOG COMMAND...: what it prints goes to LOG; shown only if it fails.
quietly() {
  local log=$1
  shift
  if ! "$@" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    die "This failed: $*" "The whole log is $log"
  fi
}

digest() { find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1; }
changed() { local stamp=$1; shift; [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$(digest "$@")" ]; }
mark() { local stamp=$1; shift; digest "$@" >"$stamp"; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Sets PYTHON: the one that was asked for, or the first that is new enough.
find_python() {
  if [ -n "${PYTHON:-}" ]; then
    new_enough "$PYTHON" || die "$PYTHON is not Python 3.11 or later." "Name another one: make PYTHON=/path/to/python3"
    return
  fi
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if new_enough "$name"; then
      PYTHON=$(command -v "$name")
      return
    fi
  done
  die "Python 3.11 or later is not installed." "Debian 12, Ubuntu 24.04: apt install python3 python3-venv"
}
