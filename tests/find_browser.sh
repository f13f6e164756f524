#!/bin/sh
# Prints the path of a Chromium that the browser tests can drive. With --install it installs one
# where the system's package manager may be used without a question. Prints nothing where there is
# none: the tests then say so, and which command gets one.

find_browser() {
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        # Ubuntu's apt package is a stub that asks for a snap: a browser is what can tell its version.
        if path=$(command -v "$name") && "$path" --version >/dev/null 2>&1; then
            echo "$path"
            return 0
        fi
    done
    for path in "$HOME"/.cache/ms-playwright/chromium-*/chrome-linux*/chrome \
        "$HOME"/Library/Caches/ms-playwright/chromium-*/chrome-mac*/*.app/Contents/MacOS/* \
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"; do
        if [ -x "$path" ]; then
            echo "$path"
            return 0
        fi
    done
    return 1
}

install_browser() {
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" = 0 ]; then sudo=""; else sudo="sudo -n"; fi
    $sudo true 2>/dev/null || return 1
    echo "Installing Chromium for the browser tests (apt-get) …" >&2
    $sudo apt-get update -qq >&2
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >&2
}

find_browser || { [ "$1" = --install ] && install_browser && find_browser; } || true
