#!/bin/sh
# Start Redis with the password from the environment, by way of a private file: it is in no list of processes.
set -eu
umask 077
: "${REDIS_PASSWORD:?is not set; it belongs into .env}"
case $REDIS_PASSWORD in
    *[!A-Za-z0-9_.~-]*)
        echo "REDIS_PASSWORD: use letters, digits, '_', '.', '~' and '-'; it becomes part of a URL" >&2
        exit 1
        ;;
esac
folder=${REDIS_RUN_FOLDER:-/run/redis}
{
    cat "${REDIS_CONF:-/etc/neuroscan/redis.conf}"
    printf 'requirepass %s\n' "$REDIS_PASSWORD"
} >"$folder/redis.conf"
exec "${REDIS_SERVER:-redis-server}" "$folder/redis.conf"
