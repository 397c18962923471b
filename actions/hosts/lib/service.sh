# Functions that read the state of a service, with systemd, OpenRC or SysV init.

# Set `manager`, and `name` to the name that the manager uses for the service $1. Exit if the host
# has no such service.
find_service() {
    require_service "$1"
    name=$1
    if [ -d /run/systemd/system ]; then
        manager=systemd
        # Other units are not services: restarting poweroff.target would power the host off.
        case $name in *.service) ;; *) name=$name.service ;; esac
        read_properties
        case $(print_property LoadState) in
        '') refuse "systemctl does not answer" ;;
        not-found) refuse "the host has no service $name" ;;
        esac
    elif command -v rc-service >/dev/null 2>&1; then
        manager=openrc
        rc-service --exists "$name" >/dev/null 2>&1 || refuse "the host has no service $name"
    elif [ -x "/etc/init.d/$name" ]; then
        manager=sysv
    else
        refuse "the host has no service $name"
    fi
}

# Set `properties` to the properties of the systemd unit `name`.
read_properties() {
    properties=$(timeout -s KILL 10 systemctl show -p LoadState -p ActiveState -p SubState \
        -p ActiveEnterTimestamp -p InactiveEnterTimestamp -p MainPID -p NRestarts "$name" \
        </dev/null 2>/dev/null)
}

# Print the property $1 from `properties`.
print_property() {
    printf '%s\n' "$properties" | sed -n "s/^$1=//p" | head -n 1 | clean 100
}

# Run the service manager's command $1, such as `status`. $2 is a prefix such as `sudo -n --`, or
# empty.
manage() {
    case $manager in
    systemd) $2 systemctl "$1" "$name" ;;
    openrc) $2 rc-service "$name" "$1" ;;
    # `service` gives the script a clean environment, as at boot.
    sysv) if command -v service >/dev/null 2>&1; then
        $2 service "$name" "$1"
    else
        $2 "/etc/init.d/$name" "$1"
    fi ;;
    esac
}

# Set `state` (active, inactive, failed, unknown, or another state of systemd), `detail`, `since`,
# `pid` and `restarts`. A value that the manager does not report is empty, or null for a number.
read_state() {
    detail='' since='' pid=null restarts=null
    if [ "$manager" = systemd ]; then
        read_properties
        state=$(print_property ActiveState)
        detail=$(print_property SubState)
        case $state in
        active) since=$(print_property ActiveEnterTimestamp) ;;
        *) since=$(print_property InactiveEnterTimestamp) ;;
        esac
        pid=$(number_or_null "$(print_property MainPID)")
        [ "$pid" != 0 ] || pid=null
        restarts=$(number_or_null "$(print_property NRestarts)")
        state=${state:-unknown}
        return
    fi
    manage status 'timeout -s KILL 20' </dev/null >/dev/null 2>&1
    detail="exit status $?"
    # The Linux Standard Base defines these exit statuses. OpenRC adds 32 for a crashed service.
    case ${detail##* } in
    0) state=active ;;
    1 | 2 | 32) state=failed ;;
    3) state=inactive ;;
    *) state=unknown ;;
    esac
}

# Print $1 if it is a number, otherwise null.
number_or_null() {
    case $1 in
    '' | *[!0-9]* | ??????????*) echo null ;;
    *) echo "$1" ;;
    esac
}
