#!/usr/bin/env bash
# Copy a data folder to the disk of this node, once for all jobs that use it; `launch` calls it with STAGE_DATA=1:
#   bash scripts/lib/stage_data.sh FOLDER TARGET
# An interrupted copy resumes; an existing copy with the same number and size of files is reused.
set -euo pipefail
source_folder=$1 target=$2 part=$2.part

fail() {
    echo "error: staging on $(hostname): $1" >&2
    exit 2
}

# Number and bytes of the files of a folder. Links are followed: the copy contains the files themselves.
measure() { find -L "$1" -type f -printf '%s\n' | awk '{ bytes += $1 } END { printf "%d files, %.0f bytes", NR, bytes }'; }

# Checksum of sizes and times of the files of a folder, so that a changed folder is copied again.
state() { find -L "$1" -type f -printf '%T@ %s\n' | LC_ALL=C sort | cksum; }

mkdir -p -- "$(dirname -- "$target")" || fail "cannot make $(dirname -- "$target"); set TMPDIR to the node's own disk"
if command -v flock >/dev/null; then
    exec 9>"$target.lock"
    flock 9 # wait for another job that is copying, and use its copy
fi

expected=$(measure "$source_folder")
state=$(state "$source_folder")
if [[ -d $target && $(cat -- "$target.state" 2>/dev/null) == "$state" && $(measure "$target") == "$expected" ]]; then
    echo "data: $target on $(hostname) is up to date ($expected)"
    exit
fi

rm -f -- "$target.state"
[[ ! -d $target || -d $part ]] || mv -- "$target" "$part" # files that are unchanged need not be copied again
copied=0
[[ ! -d $part ]] || copied=$(du -skL -- "$part" | cut -f 1)
need=$(($(du -skL -- "$source_folder" | cut -f 1) - copied))
free=$(df -Pk -- "$(dirname -- "$target")" | awk 'NR == 2 { print $4 }')
((free > need)) ||
    fail "$(dirname -- "$target") has $((free / 1024)) MB free, $((need / 1024)) MB are needed; choose another TMPDIR, or leave STAGE_DATA out"

if command -v rsync >/dev/null; then
    rsync -aL --delete -- "${source_folder%/}/" "$part/" || fail "rsync failed, see above"
else
    rm -rf -- "$part"
    cp -rL -- "$source_folder" "$part" || fail "cp failed, see above"
fi
actual=$(measure "$part")
[[ $actual == "$expected" ]] || fail "the copy has $actual, $source_folder has $expected; did it change meanwhile? Submit again"
rm -rf -- "$target"
mv -- "$part" "$target"
printf '%s\n' "$state" >"$target.state"
echo "data: copied to $target on $(hostname) in $SECONDS s ($expected)"
