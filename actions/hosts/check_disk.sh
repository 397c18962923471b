#!/bin/sh
# Print how full a file system is, and its largest directories. Change nothing.
. "${0%/*}/lib/host.sh"

path=/ top=5 seconds=20
for argument do
    case $argument in
    --path=*) path=${argument#*=} ;;
    --top=*) top=${argument#*=} ;;
    --seconds=*) seconds=${argument#*=} ;;
    --host=*) ;;
    *) refuse "unknown argument $argument" ;;
    esac
done
require_path path "$path"
require_number top "$top" 0 20
require_number seconds "$seconds" 1 120
require_programs awk df du timeout
[ -d "$path" ] || refuse "path: $path is not a directory on this host"

# A network file system that does not answer would block df forever.
kibibytes=$(timeout -s KILL 10 df -Pk -- "$path" 2>/dev/null | tail -n 1)
inodes=$(timeout -s KILL 10 df -Pi -- "$path" 2>/dev/null | tail -n 1)
[ -n "$kibibytes" ] || refuse "path: df cannot read the file system of $path"

# Without -0, which BusyBox lacks, a line break in the name of a directory begins another entry.
null_option='' separator='\n'
if du -0s -- /dev/null >/dev/null 2>&1; then
    null_option=-0 separator='\000'
fi

# du prints a directory after its contents, so a run that is cut short still prints the large
# directories that it has read completely. The last line is the exit status of du, not a directory.
directories=$(
    {
        [ "$top" -eq 0 ] || timeout -s KILL "$seconds" du -xk $null_option -- "$path" 2>/dev/null
        printf "%s$separator" "$?"
    } | if [ -n "$null_option" ]; then tr '\n\000' '_\n'; else cat; fi | awk -v top="$top" "$AWK_FUNCTIONS"'
        NR > 1 && split(previous, field, "\t") >= 2 && field[1] ~ /^[0-9]+$/ {
            keep_largest(field[1] * 1024, substr(previous, index(previous, "\t") + 1))
        }
        { previous = $0 }
        END {
            printf "%s", previous == "0" ? "true" : "false"
            for (i = 1; i <= count; i++)
                printf ",{\"path\":\"%s\",\"bytes\":%.0f}", inert(texts[i], 300), sizes[i]
        }'
)
# The first element is true if du has read everything, otherwise false.
complete=${directories%%,*}
directories=${directories#"$complete"}

document=$(printf '%s\n%s\n' "$kibibytes" "$inodes" | awk -v path="$path" -v complete="$complete" \
    -v directories="${directories#,}" "$AWK_FUNCTIONS"'
    # The name of a device or a mount point may contain spaces: count fields around the percentage.
    function find_percent(   i) {
        for (i = 5; i <= NF; i++) if ($i ~ /^[0-9]+%$/) return i
        return 0
    }
    NR == 1 {
        i = find_percent()
        if (i == 0) exit
        mountpoint = $(i + 1)
        for (word = i + 2; word <= NF; word++) mountpoint = mountpoint " " $word
        size = $(i - 3); used = $(i - 2); available = $(i - 1)
        percent = $i + 0
        parsed = 1
    }
    NR == 2 { i = find_percent(); inodes = i ? $i + 0 : "null" }
    END {
        if (!parsed) { print "{\"error\":\"the output of df cannot be parsed\"}"; exit 2 }
        printf "{\"check\":\"disk\",\"path\":\"%s\",\"mountpoint\":\"%s\",", path, inert(mountpoint, 255)
        printf "\"size_bytes\":%.0f,\"used_bytes\":%.0f,", size * 1024, used * 1024
        printf "\"free_bytes\":%.0f,\"used_percent\":%.0f,", available * 1024, percent
        printf "\"inodes_used_percent\":%s,", (inodes == "" ? "null" : inodes)
        printf "\"directories\":[%s],\"directories_complete\":%s}\n", directories, complete
    }') || exit 1
# At once, because StackStorm can lose what a script prints just before it ends.
printf '%s\n' "$document"
