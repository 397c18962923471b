#!/bin/sh
# Install the servers that the tests use, from the distribution's packages. The script installs them
# only as root, only if they are missing, and never with INSTALL=0. It starts no service and touches
# no running server: the tests start private instances, with their own ports and data.
#
#     sh scripts/install_services.sh [--dry-run] [Chromium]
#
# With `Chromium`, the script installs that browser for `make browser` instead.
set -eu

POLICY=/usr/sbin/policy-rc.d
MARK="# poundcake: no service starts while the packages for its tests are installed"
PATH=$PATH:/usr/sbin:/sbin

has() { command -v "$1" >/dev/null 2>&1; }

mode=install
if [ "${1:-}" = --dry-run ]; then
    mode=$1
    shift
fi
missing=
if [ "${1:-}" = Chromium ]; then
    all=Chromium
    has "${CHROMIUM:-chromium}" || has chromium-browser || has google-chrome || missing=" Chromium"
else
    all="MariaDB, RabbitMQ, Alertmanager, Prometheus, nftables, OpenSSH, BusyBox, proxies and linters"
    has mariadbd || missing="$missing MariaDB"
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || has rabbitmq-server || missing="$missing RabbitMQ"
    has prometheus-alertmanager || has alertmanager || missing="$missing Alertmanager"
    has prometheus || missing="$missing Prometheus"
    has nft || missing="$missing nftables"
    has sshd && has sudo && has ip || missing="$missing OpenSSH"
    has busybox || missing="$missing BusyBox"
    has haproxy && has nginx && has apache2 || missing="$missing proxies"
    has docker-compose && has shellcheck || missing="$missing linters"
fi

if [ -z "$missing" ]; then
    case $all in
    *,*) echo "poundcake: $all are installed; tests start their own instances" ;;
    esac
    exit 0
fi
skip() {
    echo "poundcake: not installed:$missing ($1); the tests that need them are skipped"
    exit 0
}

[ "${INSTALL:-1}" != 0 ] || skip "INSTALL=0"
has apt-get || skip "apt-get is not available"

# MariaDB's server package adds a service and a database in /var/lib/mysql. The core package has
# only the programs.
packages_for() {
    case $1 in
    MariaDB) echo mariadb-server-core mariadb-client-core ;;
    RabbitMQ) echo rabbitmq-server ;;
    Alertmanager) echo prometheus-alertmanager ;;
    Prometheus) echo prometheus ;;
    nftables) echo nftables ;;
    OpenSSH) echo openssh-server sudo iproute2 ;; # all that the tests on a host need
    BusyBox) echo busybox ;;
    Chromium) echo chromium fonts-noto-core ;;
    proxies) echo haproxy nginx-light apache2-bin ;;
    linters) echo docker-compose shellcheck ;; # without Docker itself
    esac
}
all_packages=
for name in $missing; do all_packages="$all_packages $(packages_for "$name")"; done

[ "$(id -u)" = 0 ] || skip "as root, or with sudo: apt-get install --no-install-recommends$all_packages"

echo "poundcake: installing$all_packages with apt-get for the tests; no service is started (INSTALL=0 installs nothing)"
[ "$mode" != --dry-run ] || exit 0

# invoke-rc.d and deb-systemd-invoke run this file before they start a service; 101 forbids it.
restore_policy() {
    if grep -qsF "$MARK" "$POLICY"; then rm -f "$POLICY"; fi
    if [ -e "$POLICY.poundcake" ]; then mv -f "$POLICY.poundcake" "$POLICY"; fi
}
trap restore_policy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
restore_policy # clean up after a run that was killed
if [ -e "$POLICY" ]; then mv "$POLICY" "$POLICY.poundcake"; fi
printf '#!/bin/sh\n%s\nexit 101\n' "$MARK" >"$POLICY"
chmod 755 "$POLICY"

export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 APT_LISTCHANGES_FRONTEND=none
apt() { apt-get -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null; }

apt update >/dev/null || echo "poundcake: apt-get update failed; using the existing package lists"
for name in $missing; do
    packages=$(packages_for "$name")
    if [ "$name" = MariaDB ] && ! apt-cache policy mariadb-server-core | grep -q 'Candidate: [0-9]'; then
        packages=$(apt-cache pkgnames mariadb-server-core- | sort -V | tail -n 1)
    fi
    log=$(mktemp)
    # shellcheck disable=SC2086 # a list of words
    if apt install -y --no-install-recommends --no-upgrade --no-remove $packages >"$log" 2>&1; then
        echo "poundcake: installed $packages"
    else
        tail -n 5 "$log"
        echo "poundcake: could not install $packages; the tests that need them are skipped"
    fi
    rm -f "$log"
done
