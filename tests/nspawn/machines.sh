# Machines under a real systemd: containers from a debootstrap root, each with a network namespace of its own, joined by a
# bridge in yet another one. Nothing of the host's network is changed. Needs root, debootstrap and systemd-container.
# shellcheck shell=bash

SITES=(site-a site-b site-w)
CACHE=${CFS_NSPAWN_CACHE:-/var/tmp/claudefs-nspawn}
# The files of the machines, and what their namespaces are named after; set by machines_place.
WORK=${CFS_NSPAWN_WORK:-}
RUN=${WORK##*.}
# What an operator's machine has beside the product.
PACKAGES=systemd,systemd-sysv,dbus,iproute2,procps,sudo,openssh-server,openssh-client,chrony,ufw,iputils-ping,net-tools,netcat-openbsd,curl,jq

# Why machines cannot be made here; nothing if they can.
machines_missing() {
    [ "$(id -u)" = 0 ] || { echo "it takes root"; return; }
    for tool in systemd-nspawn debootstrap nsenter ip; do
        command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install debootstrap systemd-container iproute2"; return; }
    done
    ip netns add "cfs-$$-try" 2>/dev/null || { echo "network namespaces cannot be made"; return; }
    ip netns del "cfs-$$-try"
}

# The root that all machines share, made once for these packages and settings.
machines_root() {
    local root="$CACHE/root" part="$CACHE/root.part" recipe
    recipe=$(echo "$PACKAGES"; declare -f machines_root_settings)
    [ "$(cat "$root/etc/cfs-machine" 2>/dev/null)" = "$recipe" ] && return
    mkdir -p "$CACHE"
    rm -rf "$part"
    debootstrap --variant=minbase --include="$PACKAGES" bookworm "$part" >"$CACHE/debootstrap.log" 2>&1 ||
        { tail -5 "$CACHE/debootstrap.log" >&2; return 1; }
    machines_root_settings "$part" || return 1
    echo "$recipe" >"$part/etc/cfs-machine"
    rm -rf "$root"
    mv "$part" "$root"
}

# What whoever set the machines up has done: root may go from each to each other by ssh, clocks are watched.
machines_root_settings() {
    local root=$1 key
    chroot "$root" ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519 || return 1
    cp "$root/root/.ssh/id_ed25519.pub" "$root/root/.ssh/authorized_keys"
    for key in "$root"/etc/ssh/ssh_host_*_key.pub; do
        echo "site-* $(cut -d' ' -f1,2 "$key")"
    done >"$root/etc/ssh/ssh_known_hosts"
    # A container may not set the clock, which is the host's: chronyd watches it and leaves it alone (-x). That is all that is
    # not as on a machine.
    mkdir -p "$root/etc/systemd/system/chrony.service.d"
    # shellcheck disable=SC2016 # systemd expands it.
    printf '[Unit]\nConditionCapability=\n[Service]\nExecStart=\nExecStart=!/usr/sbin/chronyd $DAEMON_OPTS -x\n' >"$root/etc/systemd/system/chrony.service.d/clock.conf"
}

# A place for the machines of this run.
machines_place() {
    WORK=$(mktemp -d "$CACHE/run.XXXXXX")
    RUN=${WORK##*.}
}

hub() { echo "cfs-$RUN-hub"; }
namespace_of() { echo "cfs-$RUN-$1"; }
# 1 for the first machine.
number_of() {
    local number=0 site
    for site in "${SITES[@]}"; do
        number=$((number + 1))
        [ "$site" = "$1" ] && echo $number
    done
}

# Files and network of all machines. They see each other by name.
machines_make() {
    local site number hub
    hub=$(hub)
    ip netns add "$hub"
    ip -n "$hub" link add br0 type bridge
    ip -n "$hub" link set br0 up
    for site in "${SITES[@]}"; do
        number=$(number_of "$site")
        mkdir -p "$WORK/$site"/{upper,work,root}
        mount -t overlay overlay -o "lowerdir=$CACHE/root,upperdir=$WORK/$site/upper,workdir=$WORK/$site/work" "$WORK/$site/root"
        echo "$site" >"$WORK/$site/root/etc/hostname"
        machines_hosts >"$WORK/$site/root/etc/hosts"
        ip netns add "$(namespace_of "$site")"
        ip -n "$hub" link add "v$number" type veth peer name eth0 netns "$(namespace_of "$site")"
        ip -n "$hub" link set "v$number" master br0 up
        ip -n "$(namespace_of "$site")" addr add "10.77.0.$number/24" dev eth0
        ip -n "$(namespace_of "$site")" link set eth0 up
        ip -n "$(namespace_of "$site")" link set lo up
    done
}

machines_hosts() {
    local site
    echo '127.0.0.1 localhost'
    for site in "${SITES[@]}"; do echo "10.77.0.$(number_of "$site") $site"; done
}

# The files of a machine, from outside.
root_of() { echo "$WORK/$1/root"; }

machine_boot() { machine_power_on "$1" && machine_wait "$1"; }

machine_power_on() {
    local site=$1
    setsid systemd-nspawn --quiet --directory="$(root_of "$site")" --boot --register=no --keep-unit --machine="$site" \
        --resolv-conf=off --network-namespace-path="/run/netns/$(namespace_of "$site")" >"$WORK/$site/console.log" 2>&1 </dev/null &
    echo $! >"$WORK/$site/pid"
}

# Until a machine that was switched on has booted.
machine_wait() {
    local site=$1 deadline=$((SECONDS + 90)) state
    while [ $SECONDS -lt $deadline ]; do
        state=$(on "$site" systemctl is-system-running 2>/dev/null)
        case $state in running | degraded) return 0 ;; esac
        sleep 0.5
    done
    echo "$site does not boot: see $WORK/$site/console.log" >&2
    return 1
}

# The first process of a machine; nothing if it has no power.
leader_of() { [ -e "$WORK/$1/pid" ] && pgrep -P "$(cat "$WORK/$1/pid")" | head -1; }

# Runs a command in a machine.
on() {
    local site=$1 leader
    shift
    leader=$(leader_of "$site") && [ -n "$leader" ] || return 255
    nsenter --target "$leader" --all --wd=/ env -C /root -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 SYSTEMD_PAGER=cat SYSTEMD_COLORS=0 "$@"
}

# The machine is gone from one moment to the next.
machine_kill() {
    local leader pid
    pid=$(cat "$WORK/$1/pid" 2>/dev/null) || return 0
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = systemd-nspawn ]; then
        leader=$(leader_of "$1")
        kill -9 "${leader:-$pid}"
        # Whether or not it was started by this shell.
        wait "$pid" 2>/dev/null
        while [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = systemd-nspawn ] && ! grep -q '^State:.*Z' "/proc/$pid/status"; do sleep 0.1; done
    fi
    rm -f "$WORK/$1/pid"
    # nspawn takes the namespace's interface along when the last process is gone only if nobody else names it; it stays.
}

# The link of a machine goes down, or up.
machine_link() { ip -n "$(hub)" link set "v$(number_of "$1")" "$2"; }

# All machines are gone, and all that they had.
machines_end() {
    local site
    [ -n "$WORK" ] || return 0
    for site in "${SITES[@]}"; do
        machine_kill "$site"
        umount "$WORK/$site/root" 2>/dev/null
        ip netns del "$(namespace_of "$site")" 2>/dev/null
        rm -rf "${WORK:?}/$site"
    done
    ip netns del "$(hub)" 2>/dev/null
    return 0
}
