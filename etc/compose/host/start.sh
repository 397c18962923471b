#!/bin/sh
# Start the sample host: nginx, node_exporter and, as the main process, the SSH server.
set -eu

mkdir -p /run/sshd
ssh-keygen -A
# StackStorm's account may delete files here.
install -d -o stanley /srv/data/cache
service nginx start
runuser -u prometheus -- prometheus-node-exporter --no-collector.systemd &
exec /usr/sbin/sshd -D -e
