# Sourced by the set-up scripts: installs distribution packages, only those that are missing.

# packages WHAT:PACKAGE...: WHAT is a command or a file to look for, PACKAGE brings it.
packages() {
  local need what package log missing=() me=${0##*/}
  for need; do
    what=${need%%:*} package=${need#*:}
    if [[ $what == /* ]]; then [[ -e $what ]] || missing+=("$package")
    else PATH=$PATH:/usr/sbin:/sbin command -v "$what" >/dev/null || missing+=("$package"); fi
  done
  ((${#missing[@]})) || return 0
  echo "$me: installing ${missing[*]}"
  if [[ $(id -u) != 0 ]]; then
    echo "$me: installing packages needs root; run as root: apt-get install ${missing[*]}" >&2; exit 1
  fi
  command -v apt-get >/dev/null || { echo "$me: no apt-get here; install by hand: ${missing[*]}" >&2; exit 1; }
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -q && apt-get install -q -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 \
    || { tail -n 20 "$log" >&2; echo "$me: apt-get failed; the whole output is in $log" >&2; exit 1; }
  rm -f "$log"
  # The distribution starts these at install; Mainstay runs its own.
  if [[ -d /run/systemd/system ]]; then
    for unit in etcd containerd; do systemctl disable --now "$unit" >/dev/null 2>&1 || true; done
  fi
}
