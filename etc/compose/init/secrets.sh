#!/bin/sh
# Write the secrets from the environment into the volumes of the services that need them, and copy
# the pack's files into a volume. docker-compose.yml runs this script as root in StackStorm's image,
# before every other container. It can run again at any time: it never replaces a key.
set -eu
umask 077

volumes=${VOLUMES:-/volumes}
repository=${REPOSITORY:-/repository}
nobody=65534 # the user of Prometheus and Alertmanager in their images

for name in ST2_PASSWORD MONGO_PASSWORD RABBITMQ_PASSWORD REDIS_PASSWORD MARIADB_PASSWORD \
    ALERTMANAGER_TOKEN PROMETHEUS_TOKEN BOARD_PASSWORD; do
    value=$(printenv "$name" || true)
    case $value in
    '') echo "secrets: $name is empty; run make up, which writes .env" >&2; exit 1 ;;
    *[!0-9A-Za-z]*) # it becomes a part of URLs and of configuration files
        echo "secrets: $name may contain only letters and digits; correct it in .env" >&2; exit 1 ;;
    esac
done

# StackStorm. Its services run as st2.
keys=$volumes/st2-keys
if [ ! -s "$keys/datastore_key.json" ]; then
    st2-generate-symmetric-crypto-key --key-path "$keys/datastore_key.json" >/dev/null
    echo "secrets: created the key of StackStorm's datastore"
fi
cat >"$keys/secrets.conf" <<END
[database]
host = mongodb://mongo/st2?authSource=admin
username = stackstorm
password = $MONGO_PASSWORD
[messaging]
url = amqp://stackstorm:$RABBITMQ_PASSWORD@rabbitmq:5672
[coordination]
url = redis://:$REDIS_PASSWORD@redis:6379
[webui]
webui_base_url = http://127.0.0.1:${WEB_PORT:-8800}
END
hash=$(printf '%s\n' "$ST2_PASSWORD" | openssl passwd -apr1 -stdin)
printf '%s:%s\n' "${ST2_USER:-st2admin}" "$hash" >"$keys/htpasswd"
chown -R root:st2 "$keys"
chmod 750 "$keys"
chmod 640 "$keys"/*

# The st2 command in the containers install and st2client, where root runs it.
printf '[credentials]\nusername = %s\npassword = %s\n' "${ST2_USER:-st2admin}" "$ST2_PASSWORD" \
    >"$volumes/st2-client/config"

# The SSH key with which StackStorm connects to the sample hosts.
if [ ! -s "$volumes/st2-ssh/stanley_rsa" ]; then
    ssh-keygen -q -t rsa -b 3072 -m PEM -N '' -C stanley -f "$volumes/st2-ssh/stanley_rsa"
    echo "secrets: created the SSH key for the sample hosts"
fi
cp "$volumes/st2-ssh/stanley_rsa.pub" "$volumes/host-keys/stanley"
chmod 755 "$volumes/host-keys"
chmod 644 "$volumes/host-keys/stanley"

# PoundCake reads its secrets in the sensor container, as st2, and in the action runner, as root.
secrets=$volumes/poundcake
printf 'mysql+pymysql://poundcake:%s@mariadb/poundcake\n' "$MARIADB_PASSWORD" \
    >"$secrets/database_url"
printf '%s\n' "$ALERTMANAGER_TOKEN" >"$secrets/alertmanager.token"
printf '%s\n' "$PROMETHEUS_TOKEN" >"$secrets/prometheus.token"
printf '%s\n' "$BOARD_PASSWORD" >"$secrets/people.token"
chown -R root:st2 "$secrets"
chmod 750 "$secrets"
chmod 640 "$secrets"/*
chown st2:st2 "$volumes/poundcake-state"
chmod 750 "$volumes/poundcake-state"

# The clients of the endpoint.
for client in alertmanager prometheus; do
    cp "$secrets/$client.token" "$volumes/$client/poundcake.token"
    chown -R $nobody:$nobody "$volumes/$client"
    chmod 500 "$volumes/$client"
    chmod 400 "$volumes/$client/poundcake.token"
done

# The pack, without hidden files such as .env and .git, so that StackStorm copies the folder, with
# your changes, and never sees your secrets.
find "$volumes/pack" -mindepth 1 -delete
tar -C "$repository" --exclude='./.*' --exclude='./etc/poundcake.token' --exclude=__pycache__ -cf - . |
    tar -C "$volumes/pack" --no-same-owner -xf -
chmod -R u=rwX,go=rX "$volumes/pack"
echo "secrets: ready"
