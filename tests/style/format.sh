#!/bin/bash
# Every C file is as clang-format leaves it.  TAP.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
echo 1..1
mapfile -t files < <(git ls-files --cached --others --exclude-standard '*.c' '*.h')
if clang-format --dry-run --Werror "${files[@]}" 2>/tmp/format.$$; then
    echo "ok 1 - ${#files[@]} files are formatted by .clang-format"
else
    echo "not ok 1 - some files are not formatted; run clang-format -i on them"
    sed 's/^/# /' /tmp/format.$$ | grep error | head -20
fi
rm -f /tmp/format.$$
