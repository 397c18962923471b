#!/bin/sh
# Print the load, the use of the processors, and the busiest processes. Change nothing.
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
require_programs awk sleep
[ -r /proc/stat ] || refuse "the host has no readable /proc/stat"

# awk reads everything twice, a second apart. It reads each file separately, so that no process can
# pretend to be another one.
printf '%s\n' /proc/[0-9]*/stat | awk -v top="$top" "$AWK_FUNCTIONS"'
    # Read the first line of /proc/stat: user nice system idle iowait irq softirq steal.
    function read_total(into,   line, field, at) {
        getline line < "/proc/stat"
        close("/proc/stat")
        split(line, field, " ")
        into["all"] = 0
        for (at = 2; at <= 9; at++) into["all"] += field[at]
        into["idle"] = field[5]
        into["iowait"] = field[6]
        into["steal"] = field[9]
    }
    # Return the ticks that a process has used, or -1 if it has ended. Set `name`.
    function read_ticks(file,   line, text, field, from, to) {
        text = ""
        while ((getline line < file) > 0) text = text " " line
        close(file)
        from = index(text, "(")
        to = match(text, /\)[^)]*$/)  # the name may contain anything, brackets included
        if (!from || !to) return -1
        name = substr(text, from + 1, to - from - 1)
        split(substr(text, to + 2), field, " ")
        return field[12] + field[13]
    }
    { files[NR] = $0 }
    END {
        while ((getline line < "/proc/stat") > 0) if (line ~ /^cpu[0-9]/) processors++
        close("/proc/stat")
        read_total(before)
        for (at = 1; at <= NR; at++) ticks[at] = read_ticks(files[at])
        system("sleep 1")
        read_total(after)
        elapsed = after["all"] - before["all"]
        if (elapsed <= 0) elapsed = 1
        for (at = 1; at <= NR; at++) {
            if (ticks[at] < 0) continue
            used = read_ticks(files[at]) - ticks[at]
            if (used <= 0) continue
            status = files[at]
            sub(/stat$/, "status", status)
            uid = ""
            while ((getline line < status) > 0)
                if (line ~ /^Uid:/) { split(line, field, "\t"); uid = field[2] }
            close(status)
            split(files[at], field, "/")
            keep(used, sprintf("{\"pid\":%d,\"name\":\"%s\",\"user\":\"%s\",\"cpu_percent\":%.0f}",
                field[3], inert(name, 32), user_of(uid), 100 * processors * used / elapsed))
        }
        getline line < "/proc/loadavg"
        split(line, load, " ")
        idle = after["idle"] - before["idle"]
        waiting = after["iowait"] - before["iowait"]
        stolen = after["steal"] - before["steal"]
        printf "{\"check\":\"cpu\",\"load_1m\":%.2f,\"load_5m\":%.2f,", load[1], load[2]
        printf "\"load_15m\":%.2f,\"processors\":%d,", load[3], processors
        printf "\"busy_percent\":%.0f,", 100 * (elapsed - idle - waiting) / elapsed
        printf "\"iowait_percent\":%.0f,", 100 * waiting / elapsed
        printf "\"steal_percent\":%.0f,\"processes\":[", 100 * stolen / elapsed
        for (at = 1; at <= count; at++) printf "%s%s", (at > 1 ? "," : ""), texts[at]
        print "]}"
    }'
