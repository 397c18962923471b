#!/bin/sh
# Print the available memory, the largest processes, and the last processes that the kernel killed for
# lack of memory. Change nothing.
. "${0%/*}/lib/host.sh"

top=5
for argument do
    case $argument in
    --top=*) top=${argument#*=} ;;
    --host=*) ;;
    *) refuse "unknown argument $argument" ;;
    esac
done
require_number top "$top" 0 20
require_programs awk timeout
[ -r /proc/meminfo ] || refuse "the host has no readable /proc/meminfo"

# On most hosts, only root may read the kernel log. Everyone may read the counter in /proc/vmstat.
if log=$(timeout -s KILL 5 dmesg 2>/dev/null); then readable=true; else readable=false; fi
killed=$(printf '%s\n' "$log" | grep -i 'killed process' | tail -n 3 | json_lines)

# awk reads each file separately, so that no process can pretend to be another one. The arguments of
# processes are left out, because they may contain secrets.
document=$(printf '%s\n' /proc/[0-9]*/status | awk -v top="$top" -v readable="$readable" \
    -v killed="$killed" "$AWK_FUNCTIONS"'
    BEGIN {
        while ((getline line < "/proc/meminfo") > 0) {
            split(line, field, /[: ]+/)
            memory[field[1]] = field[2] * 1024
        }
        while ((getline line < "/proc/vmstat") > 0)
            if (split(line, field, " ") == 2 && field[1] == "oom_kill") kills = field[2] + 0
    }
    {
        name = ""; uid = ""; resident = 0
        while ((getline line < $0) > 0) {
            if (line ~ /^Name:/) name = substr(line, 7)
            else if (line ~ /^Uid:/) { split(line, field, "\t"); uid = field[2] }
            else if (line ~ /^VmRSS:/) { split(line, field, /[ \t]+/); resident = field[2] * 1024 }
        }
        close($0)
        if (resident == 0) next
        split($0, field, "/")
        format = "{\"pid\":%d,\"name\":\"%s\",\"user\":\"%s\",\"bytes\":%.0f}"
        keep_largest(resident, sprintf(format, field[3], inert(name, 32), user_of(uid), resident))
    }
    END {
        available = memory["MemAvailable"]
        if (available == "")  # before Linux 3.14
            available = memory["MemFree"] + memory["Buffers"] + memory["Cached"]
        printf "{\"check\":\"memory\",\"total_bytes\":%.0f,", memory["MemTotal"]
        printf "\"available_bytes\":%.0f,", available
        printf "\"swap_total_bytes\":%.0f,", memory["SwapTotal"]
        printf "\"swap_free_bytes\":%.0f,\"processes\":[", memory["SwapFree"]
        for (i = 1; i <= count; i++) printf "%s%s", (i > 1 ? "," : ""), texts[i]
        printf "],\"oom_kills_since_boot\":%s,", (kills == "" ? "null" : kills)
        printf "\"kernel_log_readable\":%s,\"last_oom_kills\":[%s]}\n", readable, killed
    }') || exit 1
# At once, because StackStorm can lose what a script prints just before it ends.
printf '%s\n' "$document"
