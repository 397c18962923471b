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

# awk reads all counters twice, one second apart. It reads each file separately, so that no process
# can pretend to be another one.
document=$(printf '%s\n' /proc/[0-9]*/stat | awk -v top="$top" "$AWK_FUNCTIONS"'
    # Read the first line of /proc/stat: user nice system idle iowait irq softirq steal.
    function read_total(total,   line, field, i) {
        getline line < "/proc/stat"
        close("/proc/stat")
        split(line, field, " ")
        total["all"] = 0
        for (i = 2; i <= 9; i++) total["all"] += field[i]
        total["idle"] = field[5]
        total["iowait"] = field[6]
        total["steal"] = field[9]
    }
    # Return the ticks that a process has used, or -1 if it has ended. Set `name`.
    function read_ticks(file,   line, text, field, first_bracket, last_bracket) {
        text = ""
        while ((getline line < file) > 0) text = text " " line
        close(file)
        first_bracket = index(text, "(")
        last_bracket = match(text, /\)[^)]*$/)  # the name may contain anything, brackets included
        if (!first_bracket || !last_bracket) return -1
        name = substr(text, first_bracket + 1, last_bracket - first_bracket - 1)
        split(substr(text, last_bracket + 2), field, " ")
        return field[12] + field[13]
    }
    { files[NR] = $0 }
    END {
        while ((getline line < "/proc/stat") > 0) if (line ~ /^cpu[0-9]/) processors++
        close("/proc/stat")
        read_total(before)
        for (i = 1; i <= NR; i++) ticks[i] = read_ticks(files[i])
        system("sleep 1")
        read_total(after)
        elapsed = after["all"] - before["all"]
        if (elapsed <= 0) elapsed = 1
        for (i = 1; i <= NR; i++) {
            if (ticks[i] < 0) continue
            used = read_ticks(files[i]) - ticks[i]
            if (used <= 0) continue
            status = files[i]
            sub(/stat$/, "status", status)
            uid = ""
            while ((getline line < status) > 0)
                if (line ~ /^Uid:/) { split(line, field, "\t"); uid = field[2] }
            close(status)
            split(files[i], field, "/")
            format = "{\"pid\":%d,\"name\":\"%s\",\"user\":\"%s\",\"cpu_percent\":%.0f}"
            percent = 100 * processors * used / elapsed
            keep_largest(used, sprintf(format, field[3], inert(name, 32), user_of(uid), percent))
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
        for (i = 1; i <= count; i++) printf "%s%s", (i > 1 ? "," : ""), texts[i]
        print "]}"
    }') || exit 1
# At once, because StackStorm can lose what a script prints just before it ends.
printf '%s\n' "$document"
