# What docs/installation.md says, for machines of machines.sh.
# shellcheck shell=bash

# Says what fails.
must() {
    local said
    said=$("$@" 2>&1) || { echo "FAILED: $*: $said" >&2; return 1; }
}

# "Files", and "Monitoring", for one machine from outside of it, before it boots.
install_files() {
    local root
    root=$(root_of "$1")
    install -D -m 0755 "$CFS" "$root/usr/bin/cfs"
    ln -sf cfs "$root/usr/bin/cfs-control"
    ln -sf cfs "$root/usr/bin/cfs-shipper"
    install -D -m 0644 -t "$root/etc/systemd/system" deploy/systemd/*.service
    install -D -m 0644 deploy/sysusers.d/claudefs.conf "$root/usr/lib/sysusers.d/claudefs.conf"
    install -D -m 0644 deploy/tmpfiles.d/claudefs.conf "$root/usr/lib/tmpfiles.d/claudefs.conf"
    install -D -m 0644 -t "$root/etc/prometheus" deploy/prometheus/prometheus.yml deploy/prometheus/claudefs.rules.yml
}

# A configuration for the cluster with this id; site-w is a witness.
configuration() {
    local site=$1 kind=data other
    [ "$site" = site-w ] && kind=witness
    printf '[site]\nname = "%s"\nid = %s\nkind = "%s"\n\n[cluster]\nid = "%s"\n' "$site" "$(number_of "$site")" "$kind" "$2"
    for other in "${SITES[@]}"; do
        [ "$other" = "$site" ] && continue
        printf '\n[[peers]]\nname = "%s"\nid = %s\ncontrol = "%s:9501"\n' "$other" "$(number_of "$other")" "$other"
        if [ "$other" = site-w ]; then
            printf 'kind = "witness"\n'
        else
            printf 'peer = "%s:9500"\nproducer = "%s:9504"\n' "$other" "$other"
        fi
    done
}

# "Configuration", before the cluster has an id.
install_configurations() {
    local site
    for site in "${SITES[@]}"; do
        configuration "$site" 00000000-0000-0000-0000-000000000000 >"$(root_of "$site")/etc/claudefs/repl.toml" || return 1
    done
}

# "Certificates", on machines that have booted: site-a has the authority, and founds the cluster.
install_certificates() {
    local site cluster tls role
    must on site-a cfs admin tls init || return 1
    cluster=$(on site-a cat /etc/claudefs/founding | grep -oE '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}')
    for site in "${SITES[@]}"; do
        sed -i "s/00000000-0000-0000-0000-000000000000/$cluster/" "$(root_of "$site")/etc/claudefs/repl.toml"
        must on "$site" cfs config check || return 1
        [ "$site" = site-a ] && continue
        role=()
        [ "$site" = site-w ] && role=(--role control)
        must on site-a cfs admin tls issue "$site" "${role[@]}" --out "/root/$site" || return 1
        tls="$(root_of "$site")/var/claudefs/tls"
        cp -r "$(root_of site-a)/root/$site" "$tls"
        must on "$site" chown -R claudefs:claudefs /var/claudefs/tls || return 1
        must on "$site" chmod 0700 /var/claudefs/tls || return 1
    done
}
