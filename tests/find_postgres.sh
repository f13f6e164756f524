#!/bin/sh
# Prints the folder of PostgreSQL's programs that the tests can start a server with. With --install
# it installs one where the system's package manager may be used without a question. Prints nothing
# where there is none: the tests then say so.

find_postgres() {
    for name in initdb postgres; do
        if path=$(command -v "$name"); then
            folder=$(dirname "$(readlink -f "$path")")
            if [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ]; then
                echo "$folder"
                return 0
            fi
        fi
    done
    for folder in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin \
        /usr/local/opt/postgresql*/bin /Applications/Postgres.app/Contents/Versions/latest/bin; do
        if [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ]; then
            echo "$folder"
            return 0
        fi
    done
    return 1
}

install_postgres() {
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" = 0 ]; then sudo=""; else sudo="sudo -n"; fi
    $sudo true 2>/dev/null || return 1
    echo "Installing PostgreSQL for the tests of the label store (apt-get) …" >&2
    $sudo apt-get update -qq >&2
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >&2
}

find_postgres || { [ "$1" = --install ] && install_postgres && find_postgres; } || true
