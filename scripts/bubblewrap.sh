#!/bin/sh
# Install bubblewrap from the system's packages if it is missing and this user may; say what to do otherwise.
command -v bwrap >/dev/null 2>&1 && exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "bubblewrap is missing: install the package 'bubblewrap' of your system (sandboxes need it, or Docker)."
    exit 0
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root=sudo
else
    echo "bubblewrap is missing and needs an administrator: sudo apt-get install bubblewrap"
    exit 0
fi
echo "Installing bubblewrap with apt-get..."
{ $as_root apt-get install -y -qq bubblewrap || { $as_root apt-get update -qq && $as_root apt-get install -y -qq bubblewrap; }; } >/dev/null 2>&1 \
    || echo "bubblewrap could not be installed: sudo apt-get install bubblewrap"
exit 0
