#!/bin/sh
# Print the state of a service and the last lines of its log. Change nothing.
. "${0%/*}/lib/host.sh"
. "${0%/*}/lib/service.sh"

service='' lines=10
for argument do
    case $argument in
    --service=*) service=${argument#*=} ;;
    --lines=*) lines=${argument#*=} ;;
    --host=*) ;;
    *) refuse "unknown argument $argument" ;;
    esac
done
require_number lines "$lines" 0 50
require_programs awk sed timeout
find_service "$service"
read_state

read_log() {
    if [ "$manager" = systemd ]; then
        timeout -s KILL 10 journalctl -q --no-pager -o short-iso -n "$lines" -u "$name"
        return
    fi
    for file in /var/log/syslog /var/log/messages; do
        [ -r "$file" ] && tail -c 262144 "$file" | grep -F -- "$name"
    done
}
log=$(read_log </dev/null 2>/dev/null | tail -n "$lines" | json_lines)

# At once, because StackStorm can lose what a script prints just before it ends.
document=$(
    printf '{"check":"service","service":"%s","manager":"%s","state":"%s","detail":"%s",' \
        "$name" "$manager" "$state" "$detail"
    printf '"since":"%s","pid":%s,"restarts":%s,"log":[%s]}' "$since" "$pid" "$restarts" "$log"
)
printf '%s\n' "$document"
