#!/bin/sh
# Fill the small disk with files that are ten days old, as a program would that never deletes its
# cache. A file of today stays after the clean-up.
set -eu

cd /srv/data/cache
for number in 1 2 3 4 5 6 7 8 9 10 11; do
    dd if=/dev/zero of="old-$number" bs=1M count=5 status=none
    touch -d '10 days ago' "old-$number"
done
date >today
chown stanley old-* today
df -h /srv/data
