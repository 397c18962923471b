# Functions for the checks and changes that run on a host. StackStorm copies this folder to the
# host, next to the script, and deletes both afterwards.
#
# Everything here is POSIX sh, because a host may have no bash, and its programs may be BusyBox.
# Each script prints exactly one JSON document to stdout and nothing to stderr, which StackStorm
# merges with stdout when it uses sudo. Text from the host (names of files and processes, log lines)
# reaches the output only through `clean`: anybody with an account on the host can choose it.

LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
unset CDPATH ENV BASH_ENV
IFS=' 	
'

# Characters that no JSON parser, template or shell interprets. Every other byte becomes _.
INERT='A-Za-z0-9 ._:/@%+=,~#()-'
INERT_IN_AWK='A-Za-z0-9 ._:\/@%+=,~#()-'

# awk functions: keep_largest(size, text) keeps the `top` largest entries in texts[1] to
# texts[count], and inert(text, length) makes text from the host safe to print.
AWK_FUNCTIONS='
    function keep_largest(size, text,   i) {
        if (top == 0 || (count == top && size <= sizes[top])) return
        i = count < top ? ++count : top
        for (; i > 1 && sizes[i - 1] < size; i--) {
            sizes[i] = sizes[i - 1]
            texts[i] = texts[i - 1]
        }
        sizes[i] = size
        texts[i] = text
    }
    function inert(text, length_) {
        text = substr(text, 1, length_)
        gsub(/[^'"$INERT_IN_AWK"']/, "_", text)
        return text
    }
    # Return the name of the user with this uid on the host.
    function user_of(uid,   line, field) {
        if (!have_users++)
            while ((getline line < "/etc/passwd") > 0)
                if (split(line, field, ":") > 3 && !(field[3] in users)) users[field[3]] = field[1]
        return inert(uid in users ? users[uid] : uid, 32)
    }
'

# Print text from stdin as one line of inert characters, at most $1 long.
clean() {
    tr '\n\t' '  ' | tr -c "$INERT" '_' | sed 's/  *$//' | cut -c "1-$1"
}

# Print the lines from stdin as elements of a JSON array, each at most 300 characters long.
json_lines() {
    tr '\t' ' ' | tr -c "\n$INERT" '_' | cut -c 1-300 |
        awk '{ printf "%s\"%s\"", separator, $0; separator = "," }'
}

# Print {"error": $1} and exit with status 2. Call this only before anything has been changed.
refuse() {
    printf '{"error":"%s"}\n' "$(printf %s "$1" | clean 400)"
    exit 2
}

# Exit unless $2, the value of the parameter $1, is a whole number from $3 to $4.
require_number() {
    case $2 in
    '' | *[!0-9]* | ??????????*) refuse "$1: must be a number from $3 to $4" ;;
    esac
    [ "$2" -ge "$3" ] && [ "$2" -le "$4" ] || refuse "$1: must be a number from $3 to $4"
}

# Exit unless $2, the value of the parameter $1, is an absolute path without `.` and `..`.
require_path() {
    case $2 in
    /) ;;
    [!/]* | '' | */ | *//* | */. | */./* | */.. | */../* | *[!A-Za-z0-9._/@+=-]*)
        refuse "$1: must be an absolute path of letters, digits and . _ @ + = -" ;;
    esac
    [ "${#2}" -le 255 ] || refuse "$1: is longer than 255 characters"
}

# Exit unless $1 is the name of a service.
require_service() {
    case $1 in
    '' | [!A-Za-z0-9]* | *[!A-Za-z0-9:_.@-]*)
        refuse "service: must be the name of a service, such as nginx or app@1" ;;
    esac
    [ "${#1}" -le 128 ] || refuse "service: is longer than 128 characters"
}

# Exit unless each of these programs is installed.
require_programs() {
    for program do
        command -v "$program" >/dev/null 2>&1 || refuse "$program is not installed on the host"
    done
}
