#!/usr/bin/env bash
# Prints the size of each built binary and fails when one is larger than the limit in bytes: cross/size.sh LIMIT
set -euo pipefail
cd "$(dirname "$0")/.."
limit=$1
status=0
for binary in build/bin/copepod-*; do
    bytes=$(stat -c %s "$binary")
    printf '%-28s %9d bytes  %5.1f MiB  (limit %d)\n' "$(basename "$binary")" "$bytes" "$(echo "$bytes" | awk '{print $1 / 1048576}')" "$limit"
    if [ "$bytes" -gt "$limit" ]; then
        echo "size: $(basename "$binary") is larger than $limit bytes" >&2
        status=1
    fi
done
exit $status
