#!/bin/sh
# Delete old files in directories and their subdirectories. Print what was deleted, or what would
# be deleted in a dry run.
. "${0%/*}/lib/host.sh"

SEARCH_SECONDS=240
EXAMPLES=20
NEWLINE='
'

directory_list='' older_than_days='' max_files=10000 max_megabytes=10000 dry_run=false
for argument do
    case $argument in
    --directory_list=*) directory_list=${argument#*=} ;;
    --older_than_days=*) older_than_days=${argument#*=} ;;
    --max_files=*) max_files=${argument#*=} ;;
    --max_megabytes=*) max_megabytes=${argument#*=} ;;
    --dry_run) dry_run=true ;;
    --host=* | --directories=*) ;; # directory_list contains the same directories
    *) refuse "unknown argument $argument" ;;
    esac
done
require_number older_than_days "$older_than_days" 1 3650
require_number max_files "$max_files" 1 1000000
require_number max_megabytes "$max_megabytes" 1 1000000
require_programs awk date df find id stat timeout
[ "$(stat -c %F / 2>/dev/null)" = directory ] || refuse "stat on this host does not support the option -c"
[ -n "$directory_list" ] || refuse "directories: is empty"

# Exit unless files below the directory $1 may be deleted.
require_directory() {
    require_path directories "$1"
    case $1/ in
    / | /bin/* | /boot/* | /dev/* | /etc/* | /lib/* | /lib32/* | /lib64/* | /libx32/* | /proc/* | \
        /root/* | /run/* | /sbin/* | /sys/* | /usr/* | /var/lib/* | /var/run/* | /var/lock/*)
        refuse "directories: nothing in $1 may be deleted" ;;
    /tmp/) ;;
    /home/*/*/) ;;
    /home/*) refuse "directories: $1 is a home directory: use a directory inside it" ;;
    /*/*/) ;;
    *) refuse "directories: $1 is too broad: use a directory inside it" ;;
    esac
    [ -d "$1" ] || refuse "directories: $1 is not a directory on this host"
    real_path=$(cd -P "$1" 2>/dev/null && pwd -P) || refuse "directories: no permission to enter $1"
    [ "$real_path" = "$1" ] || refuse "directories: $1 leads to $real_path through a symbolic link: use $real_path"
}

IFS=:
set -f
set -- $directory_list
set +f
IFS=' '
[ "$#" -le 20 ] || refuse "directories: more than 20"
for directory do require_directory "$directory"; done

# The device and inode of every file that a process has open. Only root sees the files of all users.
open_files=" $(timeout -s KILL 60 find /proc/[0-9]*/fd -type l -exec stat -L -c '%d:%i' {} + \
    2>/dev/null | sort -u | tr '\n' ' ')"
if [ "$(id -u)" = 0 ]; then open_files_seen=all; else open_files_seen=own; fi
now=$(date +%s)

# Print the path of each old file, and `incomplete` if the search of a directory was cut short. A
# path with a line break is skipped, because it would look like two paths.
find_old_files() {
    for directory do
        timeout -s KILL "$SEARCH_SECONDS" find "$directory" -xdev -name "*$NEWLINE*" -prune \
            -o -type f -mtime "+$((older_than_days - 1))" -print 2>/dev/null || echo incomplete
    done
}

# Enter the directory $1, so that file names are relative to it. Fail if it was replaced: the owner
# of a directory above it could have put a link to another directory in its place.
enter_directory() {
    cd -P "$1" 2>/dev/null && [ "$(pwd -P)" = "$1" ]
}

# Print the free space of the file system that contains $1.
print_free_bytes() {
    df -Pk -- "$1" 2>/dev/null | awk 'NR == 2 { for (i = 4; i <= NF; i++)
        if ($i ~ /^[0-9]+%$/) { printf "%.0f", $(i - 1) * 1024; exit } }'
}

free_before=$(print_free_bytes "$1")
find_old_files "$@" | {
    file_count=0 byte_count=0 open_count=0 failed_count=0 changed_count=0 example_count=0
    examples='' complete=true limit='' entered=''
    while IFS= read -r path; do
        [ "$path" != incomplete ] || { complete=false; continue; }
        parent=${path%/*} file=./${path##*/}
        if [ "$parent" != "$entered" ]; then
            entered=''
            enter_directory "$parent" || { changed_count=$((changed_count + 1)); continue; }
            entered=$parent
        fi
        # Check again, because the search may have been minutes ago: a log may have been rotated.
        set -- $(stat -c '%Y %b %B %h %d:%i %F' "$file" 2>/dev/null)
        [ "${6:-}" = regular ] && [ "$((now - $1))" -ge "$((older_than_days * 86400))" ] ||
            { changed_count=$((changed_count + 1)); continue; }
        size=$(($2 * $3))
        [ "$4" = 1 ] || size=0 # another hard link keeps the content
        case $open_files in *" $5 "*)
            open_count=$((open_count + 1))
            continue ;;
        esac
        if [ "$file_count" -ge "$max_files" ]; then limit=max_files; break; fi
        if [ "$((byte_count + size))" -gt "$((max_megabytes * 1000000))" ]; then
            limit=max_megabytes
            break
        fi
        if [ "$dry_run" = false ] && ! rm -f -- "$file" 2>/dev/null; then
            failed_count=$((failed_count + 1))
            continue
        fi
        file_count=$((file_count + 1)) byte_count=$((byte_count + size))
        if [ "$example_count" -lt "$EXAMPLES" ]; then
            example_count=$((example_count + 1))
            examples="$examples${examples:+,}\"$(printf %s "$path" | clean 300)\""
        fi
    done
    cd /
    free_after=$(print_free_bytes "${directory}")
    # At once, because StackStorm can lose what a script prints just before it ends.
    document=$(
        printf '{"change":"clean_disk","dry_run":%s,"files":%s,"bytes":%s,"examples":[%s],' \
            "$dry_run" "$file_count" "$byte_count" "$examples"
        printf '"left_open":%s,"left_changed":%s,"failed":%s,"limit_reached":"%s",' \
            "$open_count" "$changed_count" "$failed_count" "$limit"
        printf '"search_complete":%s,"open_files_seen":"%s","free_bytes_before":%s,' \
            "$complete" "$open_files_seen" "${free_before:-null}"
        printf '"free_bytes_after":%s}' "${free_after:-null}"
    )
    printf '%s\n' "$document"
    [ "$failed_count" -eq 0 ]
}
