# Helpers that the project's shell scripts share.  Source it; nothing runs by that.
# shellcheck shell=bash

# say TEXT...: one line about what is being done, apart from a command's own output.
say()
{
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die()
{
    say "$*"
    exit 1
}

# step TEXT COMMAND...: runs COMMAND and says what it did and how long it took.  Its output
# is kept back, and shown only when it fails.
step()
{
    local what=$1 log start=$EPOCHREALTIME status=0
    shift
    log=$(mktemp)
    "$@" >"$log" 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then
        cat "$log" >&2
        say "$what: failed with status $status"
    else
        say "$what: $(seconds_since "$start") s"
    fi
    rm -f "$log"
    return "$status"
}

# seconds_since START: with one decimal, START being an earlier $EPOCHREALTIME.
seconds_since()
{
    local now=$EPOCHREALTIME tenths
    tenths=$(((${now/[.,]/} - ${1/[.,]/}) / 100000))
    printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

# need_root LINE: stops unless root, naming the line that has to be run first.
need_root()
{
    [ "$(id -u)" -eq 0 ] || die "not root; run this first: sudo $1"
}
