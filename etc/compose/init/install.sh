#!/bin/sh
# Install PoundCake in the StackStorm of docker-compose.yml: register StackStorm's own packs, write
# the pack's configuration, install the pack, and wait until its endpoint answers. The script can run
# again at any time: it installs the pack again only if its files have changed.
set -eu

pack=${PACK:-/poundcake}
configs=${CONFIGS:-/opt/stackstorm/configs}
endpoint=${ENDPOINT:-http://st2sensorcontainer:8000}
attempts=${ATTEMPTS:-90}
pause=${PAUSE:-2}

say() { echo "install: $*"; }
fail() {
    echo "install: $*" >&2
    exit 1
}

# Run a command until it succeeds: wait_for WHAT COMMAND...
wait_for() {
    what=$1
    shift
    count=0
    until "$@" >/tmp/output 2>&1; do
        count=$((count + 1))
        if [ "$count" -ge "$attempts" ]; then
            tail -n 5 /tmp/output >&2
            fail "$what is not ready; run make logs"
        fi
        [ $((count % 10)) != 1 ] || say "waiting for $what"
        sleep "$pause"
    done
}

# Install a pack, and check that StackStorm knows one of its actions or rules afterwards. The exit
# status of `st2 pack install` does not show whether the pack was installed.
install_pack() {
    say "installing $1 (the first time, this takes a few minutes)"
    st2 pack install "file://$2" >/tmp/output 2>&1 || true
    if ! st2 "$3" get "$1.$4" >/dev/null 2>&1; then
        tail -n 30 /tmp/output >&2
        fail "could not install $1"
    fi
}

wait_for "StackStorm's API" st2 action list
if ! st2 action get packs.install >/dev/null 2>&1; then
    say "registering StackStorm's own packs"
    st2 pack register >/dev/null
fi
wait_for "packs.install" st2 action get packs.install

# Before the pack, so that the endpoint starts with this configuration.
sed "s/127\.0\.0\.1:8804/127.0.0.1:${ALERTMANAGER_PORT:-8804}/" "$pack/etc/compose/poundcake.yaml" \
    >"$configs/poundcake.yaml.new"
chmod 644 "$configs/poundcake.yaml.new"
mv "$configs/poundcake.yaml.new" "$configs/poundcake.yaml"

# The stamp is next to the configurations: both volumes are removed together.
sum=$(cd "$pack" && find . -type f -exec sha256sum {} + | sort | sha256sum | cut -d ' ' -f 1)
if [ "$(cat "$configs/.poundcake.sum" 2>/dev/null)" = "$sum" ] &&
    st2 action get poundcake.health >/dev/null 2>&1; then
    say "the pack has not changed"
    st2 run packs.load packs=poundcake register=configs >/dev/null
else
    install_pack poundcake "$pack" action health
    install_pack poundcake_trial "$pack/etc/compose/pack" rule message_remediation_ended
    printf '%s\n' "$sum" >"$configs/.poundcake.sum"
fi

wait_for "the endpoint" curl -fsS "$endpoint/api/v1/health/live"
say "PoundCake is ready"
