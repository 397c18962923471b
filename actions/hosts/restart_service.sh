#!/bin/sh
# Restart a service, and print its state before and after. The exit status is 0 only if the service
# is active afterwards.
. "${0%/*}/lib/host.sh"
. "${0%/*}/lib/service.sh"

SETTLE_SECONDS=3 # a service that fails immediately is no longer active after this time

service='' wait=60
for argument do
    case $argument in
    --service=*) service=${argument#*=} ;;
    --wait=*) wait=${argument#*=} ;;
    --host=*) ;;
    *) refuse "unknown argument $argument" ;;
    esac
done
require_number wait "$wait" 1 600
require_programs id mktemp sed timeout
case ${service%.service} in
systemd-poweroff | systemd-reboot | systemd-soft-reboot | systemd-halt | systemd-kexec | \
    systemd-suspend | systemd-hibernate | systemd-hybrid-sleep | systemd-suspend-then-hibernate | \
    emergency | rescue | halt | reboot | poweroff | shutdown | single | killprocs | sendsigs | \
    umountfs | umountroot | rc | rcS)
    refuse "service: $service stops the host" ;;
esac
find_service "$service"

# With sudo=true, the script already runs as root. Otherwise, sudoers must allow this one command.
if [ "$(id -u)" = 0 ]; then as_root=''; else as_root='sudo -n --'; fi

# The daemon inherits these settings, which are the same as at boot.
umask 022
cd /

read_state
before=$state before_since=$since

# Write the output to a file: a daemon that keeps its output open would keep a pipe open.
output=$(mktemp 2>/dev/null) || output=/dev/null
[ "$output" = /dev/null ] || trap 'rm -f "$output"' EXIT
started=$(date +%s)
deadline=$((started + wait))

manage restart "$as_root" </dev/null >"$output" 2>&1 &
restart_pid=$!
while kill -0 "$restart_pid" 2>/dev/null && [ "$(date +%s)" -lt "$deadline" ]; do sleep 1; done
if kill -0 "$restart_pid" 2>/dev/null; then
    exit_code=null
else
    wait "$restart_pid"
    exit_code=$?
fi

read_state
while [ "$state" != active ] && [ "$exit_code" = 0 ] && [ "$(date +%s)" -lt "$deadline" ]; do
    sleep 1
    read_state
done
if [ "$state" = active ] && [ "$exit_code" = 0 ]; then
    sleep "$SETTLE_SECONDS"
    read_state
fi

message=$(tail -n 5 "$output" | clean 500)
[ "$exit_code" != null ] || message="the command had not ended after $wait seconds. $message"
# At once, because StackStorm can lose what a script prints just before it ends.
document=$(
    printf '{"change":"restart_service","service":"%s","manager":"%s","before":"%s",' \
        "$name" "$manager" "$before"
    printf '"before_since":"%s","after":"%s","after_since":"%s","exit_code":%s,' \
        "$before_since" "$state" "$since" "$exit_code"
    printf '"seconds":%s,"message":"%s"}' "$(($(date +%s) - started))" "$message"
)
printf '%s\n' "$document"
[ "$state" = active ] && [ "$exit_code" = 0 ]
