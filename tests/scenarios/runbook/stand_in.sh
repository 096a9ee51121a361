#!/bin/bash
# Stands in for the programs of a machine that a runbook's commands use, on a cluster of `cfs dev` whose sites share one machine. Called by
# the name of the program. BENCH_DIR is the cluster's directory, BENCH_SITE the site that is "this machine", BENCH_PORTS the ports of all.
# There is never a stand-in for `cfs`.
set -u
program=$(basename "$0")

dev() { verb=$1; shift; cfs dev "$verb" --dir "$BENCH_DIR" "$@" >&2; }

# A port as the runbook has it, at a site, on this machine.
port() { awk -v site="$1" -v key="$2" '$1 == site && $2 == key { print $3 }' <<<"$BENCH_PORTS"; }

is_up() { kill -0 "$(cat "$BENCH_DIR/$BENCH_SITE/control.pid" 2>/dev/null || echo 0)" 2>/dev/null; }

case $program in
systemctl)
    verb=$1; unit=${2:-}
    case $unit in claudefs-repl|claudefs|claudefs-control|claudefs-shipper) ;; *) echo "Unit $unit could not be found." >&2; exit 4;; esac
    only=(); case $unit in claudefs-control) only=(--only control);; claudefs-shipper) only=(--only shipper);; esac
    case $verb in
    start|stop|restart) dev "$verb" "$BENCH_SITE" "${only[@]}" ;;
    reload) for part in control shipper; do kill -HUP "$(cat "$BENCH_DIR/$BENCH_SITE/$part.pid")"; done ;;
    status)
        echo "● $unit.service - ClaudeFS replication"
        if is_up; then echo "     Active: active (running) since $(date)"; else echo "     Active: inactive (dead)"; exit 3; fi ;;
    is-active) if is_up; then echo active; else echo inactive; exit 3; fi ;;
    *) echo "no stand-in for systemctl $verb" >&2; exit 64 ;;
    esac ;;
journalctl)
    lines=1000
    while [ $# -gt 0 ]; do case $1 in -n) lines=$2; shift;; esac; shift; done
    cat "$BENCH_DIR/$BENCH_SITE"/{control,shipper}.log 2>/dev/null | sort | tail -n "$lines" ;;
chronyc)
    echo "Reference ID    : 7F7F0101 ()"
    echo "RMS offset      : 0.000012 seconds" ;;
ssh)
    site=$1; shift
    BENCH_SITE=$site CFS_CONFIG="$BENCH_DIR/$site/repl.toml" bash -c "$*" ;;
ping)
    host=${*: -1}
    # A cut link loses everything.
    if cfs dev status --dir "$BENCH_DIR" | grep -q "$BENCH_SITE.*$host.*cut\|$host.*$BENCH_SITE.*cut"; then
        echo "5 packets transmitted, 0 received, 100% packet loss, time 4005ms"; exit 1
    fi
    echo "5 packets transmitted, 5 received, 0% packet loss, time 4005ms"
    echo "rtt min/avg/max/mdev = 0.020/0.030/0.040/0.005 ms" ;;
nc)
    host=${*: -2:1}; number=${*: -1}
    case $number in 9500) key=peer;; 9501) key=control;; *) echo "no stand-in for port $number" >&2; exit 64;; esac
    if (exec 3<>"/dev/tcp/127.0.0.1/$(port "$host" "$key")") 2>/dev/null; then
        echo "Connection to $host (127.0.0.1) $number port [tcp/*] succeeded!"
    else
        echo "nc: connect to $host port $number (tcp) failed: Connection refused"; exit 1
    fi ;;
netstat)
    # Real sockets of this site's port 9500, from the kernel's table, with the port named as on a real machine.
    hex=$(printf '%04X' "$(port "$BENCH_SITE" peer)")
    awk -v port=":$hex" 'index($2, port) && $4 == "01" { print "tcp        0      0 127.0.0.1:9500  127.0.0.1  ESTABLISHED" }
                         index($2, port) && $4 == "0A" { print "tcp        0      0 127.0.0.1:9500  0.0.0.0:*  LISTEN" }' /proc/net/tcp ;;
ufw) echo "Rule added" ;;
sudo) exec "$@" ;;
*) echo "no stand-in for $program" >&2; exit 64 ;;
esac
